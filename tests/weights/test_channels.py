"""Weights for RGB as a beginning for other channels."""

import logging

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

import cellseg_d2.modeling  # noqa: F401
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.channels import adapted
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile

FOUR = [
    *("CELLSEG.CHANNELS", "['a', 'b', 'c', 'd']"),
    *("MODEL.PIXEL_MEAN", str([1.0] * 4), "MODEL.PIXEL_STD", str([2.0] * 4)),
]


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_an_image_of_equal_channels_gives_what_it_gave(channels):
    rng = torch.Generator().manual_seed(0)
    filters = torch.randn(8, 3, 3, 3, generator=rng)
    other = torch.randn(8, 8, 3, 3, generator=rng)
    wanted = {"stem.weight": torch.zeros(8, channels, 3, 3), "next.weight": torch.zeros(8, 8, 3, 3)}
    fitted = adapted({"stem.weight": filters, "next.weight": other, "lost": other}, wanted, channels)
    assert fitted["next.weight"] is other
    plane = torch.randn(1, 1, 9, 9, generator=rng)
    before = F.conv2d(plane.expand(1, 3, 9, 9), filters)
    assert torch.allclose(F.conv2d(plane.expand(1, channels, 9, 9), fitted["stem.weight"]), before, atol=1e-5)


@pytest.fixture(scope="module")
def rgb_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rgb")
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)])
    CellCheckpointer(build_model(cfg), cfg, strict=False).save_weights("rgb")
    return folder / "rgb.pth"


@pytest.mark.parametrize("name", ["mask_rcnn_lite0_FPN", "mask_rcnn_R_50_FPN"])
def test_models_have_a_first_convolution_for_their_channels(name):
    model = build_model(get_cfg(name, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2", *FOUR]))
    first = next(weight for weight in model.backbone.bottom_up.parameters() if weight.ndim == 4)
    assert first.shape[1] == 4
    with torch.no_grad():
        found = model.eval()([{"image": torch.from_numpy(np.full((4, 64, 64), 9, np.uint8))}])
    assert "instances" in found[0]


def test_training_begins_from_rgb_weights_and_says_so(rgb_checkpoint, caplog):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", *FOUR])
    model = build_model(cfg)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellCheckpointer(model, cfg, strict=False).load(str(rgb_checkpoint))
    assert "_conv_stem.weight was trained on 3 channels; each of the 4 begins with the mean" in caplog.text
    known = WeightsFile.read(rgb_checkpoint).content["model"]["backbone.bottom_up._conv_stem.weight"]
    filters = model.backbone.bottom_up._conv_stem.weight
    assert torch.allclose(filters, known.mean(dim=1, keepdim=True).expand_as(filters) * 0.75)


def test_prediction_needs_weights_for_as_many_channels(rgb_checkpoint):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", *FOUR])
    message = r"rgb\.pth: was trained on 3 channels, but the images are read with 4; convert with"
    with pytest.raises(CellSegError, match=message):
        CellCheckpointer(build_model(cfg), cfg, strict=True).load(str(rgb_checkpoint))


def test_weights_of_four_channels_are_no_beginning_for_rgb(tmp_path):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *FOUR])
    CellCheckpointer(build_model(cfg), cfg, strict=False).save_weights("four")
    opened, rgb = WeightsFile.read(tmp_path / "four.pth"), get_cfg("mask_rcnn_lite0_FPN")
    with pytest.raises(CellSegError, match=r"was trained on 4 channels, but the images are read with 3"):
        opened.check_origin(rgb)
    with pytest.raises(CellSegError, match=r"was trained on 4 channels \(a, b, c, d\), but the dataset has 3 channels"):
        opened.check_data(rgb)
    opened.check_data(opened.cfg())


def test_prediction_keeps_the_statistics_of_the_weights(tmp_path):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *FOUR])
    model = build_model(cfg)
    CellCheckpointer(model, cfg, strict=False).save_weights("four")
    cfg.MODEL.PIXEL_MEAN = [5.0] * 4
    CellCheckpointer(model, cfg, strict=False).load(str(tmp_path / "four.pth"))  # training brings its own
    with pytest.raises(CellSegError, match=r"set MODEL\.PIXEL_MEAN '\[1\.0.*CELLSEG\.CHANNELS"):
        CellCheckpointer(model, cfg, strict=True).load(str(tmp_path / "four.pth"))


def test_weights_of_other_channels_of_the_same_number_are_told(tmp_path, caplog):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *FOUR])
    CellCheckpointer(build_model(cfg), cfg, strict=False).save_weights("four")
    opened = WeightsFile.read(tmp_path / "four.pth")
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        opened.warn_of_channels(cfg)
        opened.warn_of_channels(get_cfg("mask_rcnn_lite0_FPN"))
    assert not caplog.messages
    cfg.CELLSEG.CHANNELS = ["b", "a", "c", "d"]
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        opened.warn_of_channels(cfg)
    assert "was trained on the channels a, b, c, d; the first convolution begins with" in caplog.text
