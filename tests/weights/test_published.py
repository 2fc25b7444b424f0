"""The published weights: what the file holds, and that making it keeps the model."""

import numpy as np
import pytest
import torch

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.locations import PUBLISHED, local_path
from cellseg_d2.weights.published import publish


def test_the_file_is_small_and_says_what_it_is_for():
    opened = WeightsFile.read("nuclei")
    cfg = opened.cfg()
    assert PUBLISHED["nuclei"].stat().st_size < 12e6
    assert list(cfg.CELLSEG.CLASS_NAMES) == ["nucleus"]
    assert cfg.MODEL.WEIGHTS == local_path("nuclei") == str(PUBLISHED["nuclei"])
    weights = opened.content["model"].values()
    assert {tensor.dtype for tensor in weights if tensor.ndim > 1} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in weights)


def test_a_name_that_is_not_published_is_a_path():
    with pytest.raises(CellSegError, match="nucleus: there is no such file"):
        WeightsFile.read("nucleus")


def test_publishing_keeps_the_weights_but_for_their_rounding(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", str(tmp_path), "CELLSEG.DATASET", "mine"])
    CellCheckpointer(model, cfg, strict=True).save("model", iteration=3)
    publish(tmp_path / "model.pth", tmp_path / "small.pth")
    opened = WeightsFile.read(tmp_path / "small.pth")
    assert set(opened.content) == {"model", "cellseg_d2_config"}
    assert opened.cfg().CELLSEG.DATASET == ""
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(opened.content["model"][name].float(), tensor.float(), rtol=1e-3, atol=1e-7)
