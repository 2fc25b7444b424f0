import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.inference.detect import Detector
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.views import View

TTA = "CELLSEG.INFERENCE.TTA."
KEYS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.ROI_HEADS.NUM_CLASSES": "2",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "TEST.DETECTIONS_PER_IMAGE": "12",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "100",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "100",
    "CELLSEG.CLASS_NAMES": "['a', 'b']",
}


def _cfg(config="ablations/laptop_sgd", **keys):
    return get_cfg(config, [text for pair in {**KEYS, **keys}.items() for text in pair])


@pytest.fixture(scope="module")
def model():
    cellseg_d2.setup()
    torch.manual_seed(0)
    return build_model(_cfg()).eval()


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def test_one_view_is_no_augmentation(model, image):
    plain = Detector(model, _cfg())([image])[0]
    single = Detector(model, _cfg(**{TTA + "ENABLED": "True", TTA + "FLIPS": "False", TTA + "QUARTER_TURNS": "False"}))
    assert len(single.views) == 1
    viewed = single([image])[0]
    assert len(plain) == 12
    for name in ("scores", "pred_classes", "pred_masks"):
        torch.testing.assert_close(viewed.get(name), plain.get(name))
    torch.testing.assert_close(viewed.pred_boxes.tensor, plain.pred_boxes.tensor)


@pytest.mark.parametrize("view", [View(1, False), View(2, True), View(3, False)])
def test_with_all_views_a_turned_image_gives_turned_detections(view, model, image):
    detector = Detector(model, _cfg(**{TTA + "ENABLED": "True"}))
    assert len(detector.views) == 8
    straight, turned = detector([image])[0], detector([view.image(image)])[0]
    assert len(straight) == 12
    back = view.boxes_back(turned.pred_boxes.tensor, (96, 96))
    distance = torch.cdist(straight.pred_boxes.tensor, back)
    same = distance.argmin(dim=1)
    assert sorted(same.tolist()) == list(range(12))
    assert distance.amin(dim=1).max() < 0.05
    torch.testing.assert_close(turned.scores[same], straight.scores, atol=1e-4, rtol=0)
    masks = view.masks_back(turned.pred_masks)[same]
    assert (masks - straight.pred_masks).abs().max() < 0.02


def test_scales_and_batches_go_together(model, image):
    keys = {TTA + "ENABLED": "True", TTA + "SCALES": "[0.75, 1.0]", TTA + "QUARTER_TURNS": "False"}
    detector = Detector(model, _cfg(**keys))
    assert len(detector.views) == 6
    both = detector([image, image[::-1].copy()])
    alone = detector([image])[0]
    torch.testing.assert_close(both[0].pred_boxes.tensor, alone.pred_boxes.tensor, atol=1e-2, rtol=0)
    torch.testing.assert_close(both[0].scores, alone.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("side", "scale"), [(96, 0.5), (96, 2.0), (20, 2.3), (97, 0.37)])
def test_a_scale_is_taken_out_of_the_boxes(side, scale, model, image):
    """By the pixels that the model really saw: 97 of them at 0.37 are 36, not 35.89."""
    crop = np.resize(image, (side, side, 3))
    found = Detector(model, _cfg())([crop], scale)[0]
    assert found.image_size == (side, side)
    shown = View(scale=scale).image(crop)
    own = Detector(model, _cfg())([shown])[0]
    torch.testing.assert_close(found.pred_boxes.tensor * (shown.shape[0] / side), own.pred_boxes.tensor)


def test_a_cascade_is_predicted_in_views(image):
    torch.manual_seed(0)
    keys = {"MODEL.RESNETS.DEPTH": "50", TTA + "ENABLED": "True", TTA + "QUARTER_TURNS": "False"}
    cfg = _cfg("cascade_mask_rcnn_X_101_32x8d_FPN", **keys)
    cascade = build_model(cfg).eval()
    thresholds = [predictor.test_score_thresh for predictor in cascade.roi_heads.box_predictor]
    found = Detector(cascade, cfg)([image])[0]
    assert len(found) == 12
    assert len(WholeImagePredictor(cascade, cfg).predict(image)) <= 12
    assert [predictor.test_score_thresh for predictor in cascade.roi_heads.box_predictor] == thresholds


def test_views_count_from_a_lower_score_than_the_result(model, image, monkeypatch):
    """A cell that one view is sure of and another less keeps its mean, whatever the threshold of a single view."""
    low = Detector(model, _cfg(**{TTA + "ENABLED": "True"}))([image])[0]
    threshold = float(low.scores[5])
    monkeypatch.setattr(model.roi_heads.box_predictor, "test_score_thresh", threshold)
    high = Detector(model, _cfg(**{TTA + "ENABLED": "True", "MODEL.ROI_HEADS.SCORE_THRESH_TEST": str(threshold)}))
    found = high([image])[0]
    assert len(found) >= 5
    torch.testing.assert_close(found.scores[:5], low.scores[:5], atol=0.02, rtol=0)
