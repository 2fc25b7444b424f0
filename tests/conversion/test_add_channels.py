"""Images that come to a dataset of other channels than RGB."""

import json
import shutil

import numpy as np
import pytest
from drawing import discs, read_folder, write_sample, write_test_images
from multiplexed import CHANNEL_OPTIONS

from cellseg_d2.conversion.add import add_images
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json

PICKED = ("Ki67", "0", "CD3")
OPTIONS = ConvertOptions(tile_size=32, overlap=0.25, val_fraction=0.3, keep_empty=0.5, seed=1, channels=PICKED)
FIRST = [f"s{number}" for number in range(6)]
LATER = ["s1", "s4", "t0", "t1", "t2"]


def draw(root, names, seed):
    """Samples of four channels, 8 and 16 bit, one of them smaller than a tile; some tiles have no cell."""
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        size = (20, 25) if name.endswith("0") else tuple(rng.integers(60, 100, 2).tolist())
        image = rng.integers(0, 256, (4, *size), dtype=np.uint8)
        image = image if name.endswith("2") else image * np.array([1, 90, 7, 200], np.uint16)[:, None, None]
        write_sample(root, name, image, {1: discs(rng, *size, 3)}, **CHANNEL_OPTIONS)
    return root


@pytest.fixture
def first(tmp_path):
    """Six images and a test image."""
    root = draw(tmp_path / "first", FIRST, 1)
    write_test_images(root, {}, None)
    shutil.copy(root / "train" / "s3" / "image.tif", root / "test_release" / "test.tif")
    return root


@pytest.fixture
def later(tmp_path):
    """Two of them with other cells and other pixels, and three new ones."""
    return draw(tmp_path / "later", LATER, 2)


@pytest.fixture
def dataset(first, tmp_path):
    convert(first, tmp_path / "cells", OPTIONS)
    return tmp_path / "cells"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_is_that_of_one_conversion_of_all_images(first, later, dataset, tmp_path, workers):
    shutil.copytree(first, tmp_path / "all")
    shutil.copytree(later, tmp_path / "all", dirs_exist_ok=True)
    shutil.rmtree(first)  # it is not needed
    before = read_json(dataset / "dataset.json")
    summary = add_images(later, dataset, {"channels": list(PICKED)} if workers == 1 else {}, workers=workers)
    assert summary["channels"] != before["channels"]
    assert summary["counts"]["train"]["empty_tiles"] > 0  # whose pixels no tile has
    rows = [f"{name},{part}\n" for part in ("train", "val") for name in summary["images"][part]]
    (tmp_path / "split.csv").write_text("id,split\n" + "".join(rows))
    assert convert(tmp_path / "all", tmp_path / "once", OPTIONS, split_file=tmp_path / "split.csv") == summary
    assert read_folder(dataset) == read_folder(tmp_path / "once")
    assert [path.suffix for path in (dataset / "test").iterdir()] == [".tif"]


def test_the_same_images_again_change_nothing(first, dataset):
    before = read_folder(dataset)
    add_images(first, dataset, {})
    assert read_folder(dataset) == before


@pytest.mark.parametrize("given", [["Ki67", "0"], ["0", "Ki67", "CD3"], ["Ki67", "DAPI", "CD3"]])
def test_other_channels_are_refused(later, dataset, given):
    before = read_folder(dataset)
    told = rf"--channels {' '.join(given)}: .*cells was converted with 'Ki67 0 CD3'; leave --channels out"
    with pytest.raises(CellSegError, match=told):
        add_images(later, dataset, {"channels": given})
    assert read_folder(dataset) == before


def test_channels_do_not_come_to_a_dataset_of_rgb(later, tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    write_sample(tmp_path / "rgb", "a", rgb, {1: np.eye(40, dtype=np.uint8)}, photometric="rgb")
    convert(tmp_path / "rgb", tmp_path / "cells", ConvertOptions(val_fraction=0))
    with pytest.raises(CellSegError, match=r"--channels DAPI: .*cells was converted without; leave --channels out"):
        add_images(later, tmp_path / "cells", {"channels": ["DAPI"]})
    with pytest.raises(CellSegError, match="has 4 channels"):
        add_images(later, tmp_path / "cells", {})


def test_an_image_that_lacks_a_channel_is_refused(later, dataset):
    before = read_folder(dataset)
    rgb = np.zeros((30, 30, 3), np.uint8)
    write_sample(later, "u", rgb, {1: np.eye(30, dtype=np.uint8)}, photometric="rgb")
    with pytest.raises(CellSegError, match=r"u/image\.tif: has 3 channels .*, but no channel 'Ki67'"):
        add_images(later, dataset, {})
    assert read_folder(dataset) == before


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (None, r"images\.json: has no channel_sums, since an earlier version converted it"),
        ([[1, 2, 3]], r"images\.json: is not what `convert` writes"),
        ("many", r"images\.json: is not what `convert` writes"),
    ],
)
def test_a_dataset_without_good_sums_of_its_channels_is_refused(later, dataset, sums, message):
    content = read_json(dataset / "images.json")
    content["images"][0] |= {"channel_sums": sums}
    if sums is None:
        del content["images"][0]["channel_sums"]
    (dataset / "images.json").write_text(json.dumps(content))
    with pytest.raises(CellSegError, match=message):
        add_images(later, dataset, {})
