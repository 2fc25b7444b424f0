"""Weights of one class as a beginning for several, against the same network with one class."""

import pytest
import torch
from detectron2.modeling import build_model

import cellseg_d2.modeling  # noqa: F401
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile
from cellseg_d2.weights.classes import spread

SHARED = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True"]


def build(classes, keys):
    torch.manual_seed(classes)
    model = build_model(get_cfg("ablations/laptop_sgd", [*keys, "MODEL.ROI_HEADS.NUM_CLASSES", str(classes)])).eval()
    for name, weight in model.named_parameters():
        if "predictor" in name:
            torch.nn.init.normal_(weight)  # Detectron2 begins with zeros
    return model


@pytest.mark.parametrize("keys", [SHARED, []], ids=["shared by the classes", "per class"])
def test_each_class_begins_as_the_one_that_is_known(keys):
    keys = ["MODEL.DEVICE", "cpu", *keys]
    one, four = build(1, keys), build(4, keys)
    fitted = spread(one.state_dict(), four.state_dict())
    four.load_state_dict(fitted)
    pooled = torch.randn(6, one.roi_heads.box_head.output_shape.channels)
    with torch.no_grad():
        known, known_boxes = one.roi_heads.box_predictor(pooled)
        scores, boxes = four.roi_heads.box_predictor(pooled)
        channels = one.roi_heads.mask_head.predictor.in_channels
        features = torch.randn(2, channels, 3, 3)
        mask, masks = (model.roi_heads.mask_head.predictor(features) for model in (one, four))
    before, after = known.softmax(dim=1), scores.softmax(dim=1)
    torch.testing.assert_close(after[:, 4], before[:, 1])
    torch.testing.assert_close(after[:, :4], before[:, :1].repeat(1, 4) / 4)
    copies = boxes.shape[1] // 4
    assert copies == masks.shape[1] == (1 if len(keys) > 2 else 4)
    torch.testing.assert_close(boxes, known_boxes.repeat(1, copies))
    torch.testing.assert_close(masks, mask.repeat(1, copies, 1, 1))


def test_each_stage_of_a_cascade_does():
    known, wanted = {}, {}
    for stage in range(3):
        name = f"roi_heads.box_predictor.{stage}.cls_score."
        known |= {f"{name}weight": torch.ones(2, 4), f"{name}bias": torch.tensor([stage, 9.0])}
        wanted |= {f"{name}weight": torch.ones(3, 4), f"{name}bias": torch.ones(3)}
    fitted = spread(known, wanted)
    for stage in range(3):
        bias = fitted[f"roi_heads.box_predictor.{stage}.cls_score.bias"]
        torch.testing.assert_close(bias.softmax(0)[:2].sum(), torch.tensor([stage, 9.0]).softmax(0)[0])


def test_a_classifier_of_other_features_begins_afresh(caplog):
    caplog.set_level("INFO")
    name = "roi_heads.box_predictor.cls_score."
    known = {f"{name}weight": torch.ones(2, 4), f"{name}bias": torch.ones(2)}
    assert spread(known, {f"{name}weight": torch.ones(5, 8), f"{name}bias": torch.ones(5)}) == known
    assert not caplog.text


@pytest.mark.parametrize(("known", "wanted"), [(1, 1), (2, 4), (4, 1)])
def test_other_numbers_of_classes_are_left_alone(known, wanted):
    keys = ["MODEL.DEVICE", "cpu"]
    weights = build(known, keys).state_dict()
    fitted = spread(weights, build(wanted, keys).state_dict())
    assert all(fitted[name] is weights[name] for name in weights)


def test_training_begins_so_and_prediction_does_not(tmp_path, caplog):
    keys = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    cfg = get_cfg("finetune_nuclei", [*keys, "MODEL.ROI_HEADS.NUM_CLASSES", "4"])
    model = build_model(cfg)
    weights = WeightsFile.read("nuclei")
    caplog.set_level("INFO")
    CellCheckpointer(model, cfg, strict=False, opened=weights).load("nuclei")
    assert "each of the 4 begins with what they know of it" in caplog.text
    rows = model.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(rows[0], weights.content["model"]["roi_heads.box_predictor.cls_score.weight"][0].float())
    assert torch.equal(rows[0], rows[3]) and not torch.equal(rows[0], rows[4])
    with pytest.raises(CellSegError, match="does not fit the model"):
        CellCheckpointer(model, cfg, strict=True, opened=weights).load("nuclei")
