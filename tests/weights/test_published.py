"""The published weights: what the file holds, and that making it keeps the model."""

import numpy as np
import pytest
import torch

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.locations import PUBLISHED, local_path
from cellseg_d2.weights.published import CLASS_BIAS, publish


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


def test_a_threshold_becomes_a_half_and_the_order_stays(tmp_path):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", str(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", "1"])
    model = torch.nn.Module()
    model.roi_heads = torch.nn.Module()
    model.roi_heads.box_predictor = torch.nn.Module()
    model.roi_heads.box_predictor.cls_score = torch.nn.Linear(3, 2)
    CellCheckpointer(model, cfg, strict=True).save("model")
    publish(tmp_path / "model.pth", tmp_path / "small.pth", threshold=0.9)
    opened = WeightsFile.read(tmp_path / "small.pth")
    before, after = model.roi_heads.box_predictor.cls_score.bias.detach(), opened.content["model"][CLASS_BIAS]
    logits = torch.tensor([[np.log(9.0), 0.0], [np.log(0.05 / 0.95), 0.0]])  # scores of 0.9 and 0.05
    moved = torch.softmax(logits + after - before, dim=1)[:, 0]
    assert moved[0].item() == pytest.approx(0.5)
    assert moved[1].item() == pytest.approx(opened.cfg().MODEL.ROI_HEADS.SCORE_THRESH_TEST)


def test_the_threshold_is_the_checkpoints_where_none_is_given(tmp_path):
    keys = ["OUTPUT_DIR", str(tmp_path), "CELLSEG.CLASS_NAMES", "['nucleus']", "CELLSEG.INFERENCE.MIN_SCORES", "[0.9]"]
    model = torch.nn.Module()
    model.roi_heads = torch.nn.Module()
    model.roi_heads.box_predictor = torch.nn.Module()
    model.roi_heads.box_predictor.cls_score = torch.nn.Linear(3, 2)
    CellCheckpointer(model, get_cfg("mask_rcnn_lite0_FPN", keys), strict=True).save("model")
    publish(tmp_path / "model.pth", tmp_path / "small.pth")
    publish(tmp_path / "model.pth", tmp_path / "asked.pth", 0.9)
    small, asked = (WeightsFile.read(tmp_path / f"{name}.pth") for name in ("small", "asked"))
    assert small.content["cellseg_d2_config"] == asked.content["cellseg_d2_config"]
    assert torch.equal(small.content["model"][CLASS_BIAS], asked.content["model"][CLASS_BIAS])
    assert small.cfg().CELLSEG.INFERENCE.MIN_SCORES == []


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
