import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_loss
from detectron2.projects.point_rend import PointRendMaskHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from drawing import discs, noise
from torch.nn import functional as F

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling import CellMaskHead, CellOutputLayers, CellPointRendMaskHead
from cellseg_d2.modeling.losses import dice_loss, mask_losses, own_class_logits
from cellseg_d2.structures import LabelMasks

SIDE = 96
CLASSES = 4

# Heads as in the shipped configs on a small backbone that all of them can have.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.NUM_GROUPS", "1", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.FC_DIM", "32", "MODEL.POINT_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", str(CLASSES), "MODEL.POINT_HEAD.NUM_CLASSES", str(CLASSES)),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"),
]
MODELS = ["mask_rcnn_X_101_32x8d_FPN", "cascade_mask_rcnn_X_101_32x8d_FPN", "pointrend_rcnn_X_101_32x8d_FPN"]
KINDS = pytest.mark.parametrize("name", MODELS, ids=["plain", "cascade", "pointrend"])


def _instances(cells, seed=0):
    label_map = torch.from_numpy(discs(np.random.default_rng(seed), SIDE, SIDE, cells, radius=9))
    ids = torch.unique(label_map)[1:]
    instances = Instances((SIDE, SIDE))
    instances.gt_masks = LabelMasks(label_map[None], torch.zeros_like(ids), ids)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.arange(len(ids)) % CLASSES
    return instances


def _losses(name, overrides=(), cells=6, autocast=None):
    """One forward pass: the same weights, images and random draws whatever the overrides are."""
    model = build_model(get_cfg(name, [*SMALL, *map(str, overrides)])).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    torch.manual_seed(0)
    batch = [
        {"image": torch.from_numpy(noise(np.random.default_rng(seed), SIDE, SIDE)).permute(2, 0, 1)}
        for seed in range(2)
    ]
    for seed, sample in enumerate(batch):
        sample["instances"] = _instances(cells, seed)
    with EventStorage(), torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        return model, model(batch)


def _key_of(loss):
    stem = loss.partition("_stage")[0]
    if stem.startswith("loss_mask"):
        return "CELLSEG.LOSS.MASK_WEIGHT"
    return {
        "loss_rpn_cls": "CELLSEG.LOSS.RPN_CLS_WEIGHT",
        "loss_rpn_loc": "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
        "loss_cls": "CELLSEG.LOSS.BOX_CLS_WEIGHT",
        "loss_box_reg": "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
    }[stem]


@KINDS
def test_weights_multiply_the_losses(name):
    weights = {
        "CELLSEG.LOSS.RPN_CLS_WEIGHT": 0.5,
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 2.0,
        "CELLSEG.LOSS.BOX_CLS_WEIGHT": 4.0,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 0.25,
        "CELLSEG.LOSS.MASK_WEIGHT": 8.0,
    }
    dice = ["CELLSEG.LOSS.MASK", "dice_bce"]
    plain = _losses(name, dice)[1]
    overrides = [text for key, weight in weights.items() for text in (key, weight)]
    weighted = _losses(name, [*dice, *overrides])[1]
    assert {_key_of(loss) for loss in plain} == set(weights)
    # powers of two, so that nothing is rounded
    assert {k: v.item() for k, v in weighted.items()} == {k: v.item() * weights[_key_of(k)] for k, v in plain.items()}


def test_weights_come_on_top_of_detectron2s():
    overrides = ["MODEL.RPN.LOSS_WEIGHT", 2.0, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 3.0]
    overrides += ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 2.5, "CELLSEG.LOSS.RPN_CLS_WEIGHT", 0.5]
    model, _ = _losses(MODELS[0], overrides)
    assert model.proposal_generator.loss_weight == {"loss_rpn_cls": 1.0, "loss_rpn_loc": 6.0}
    assert model.roi_heads.box_predictor.loss_weight == {"loss_cls": 1.0, "loss_box_reg": 2.5}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["CELLSEG.LOSS.RPN_CLS_WEIGHT", "-1.0"], "RPN_CLS_WEIGHT is -1"),
        (["CELLSEG.LOSS.MASK_WEIGHT", "float('inf')"], "MASK_WEIGHT"),
        (["CELLSEG.LOSS.MASK", "dice"], "CELLSEG.LOSS.MASK is dice; give one of bce, dice_bce"),
        (["CELLSEG.LOSS.CLASS_WEIGHTS", "[1.0, 2.0]"], "has 2 weights; give 5"),
        (["CELLSEG.LOSS.CLASS_WEIGHTS", "[1.0, 1.0, -1.0, 1.0, 1.0]"], "at least 0"),
        (["CELLSEG.LOSS.CLASS_WEIGHTS", "[0, 0, 0, 0, 0]"], "not all of them 0"),
        (["CELLSEG.LOSS.CLASS_WEIGHTS", "['a', 1, 1, 1, 1]"], "finite numbers"),
        (
            ["CELLSEG.LOSS.CLASS_WEIGHTS", "[1, 1, 1, 1, 1]", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"],
            "USE_SIGMOID_CE",
        ),
        (
            ["CELLSEG.LOSS.MASK", "dice_bce", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"],
            "CELLSEG.LOSS.MASK needs MODEL.ROI_MASK_HEAD.NAME CellMaskHead or CellPointRendMaskHead",
        ),
        (["CELLSEG.LOSS.RPN_CLS_WEIGHT", "2.0", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"], "NAME CellRPN; RPN does not"),
    ],
)
def test_values_that_cannot_be_are_refused(overrides, named):
    cfg = get_cfg(MODELS[0], SMALL)
    if overrides[1] == "float('inf')":
        cfg.CELLSEG.LOSS.MASK_WEIGHT = math.inf
    else:
        cfg.merge_from_list(overrides)
    with pytest.raises(CellSegError, match=r"CELLSEG\.LOSS") as error:
        build_model(cfg)
    assert named in str(error.value)


@pytest.mark.parametrize("name", MODELS[:2], ids=["plain", "cascade"])
def test_class_weights_reach_every_box_head(name):
    plain, weighted = (
        _losses(name, overrides)[1] for overrides in ([], ["CELLSEG.LOSS.CLASS_WEIGHTS", "[3.0, 1, 2, 1, 0.5]"])
    )
    stages = {"loss_cls_stage0", "loss_cls_stage1", "loss_cls_stage2"} if "cascade" in name else {"loss_cls"}
    assert {key for key, loss in plain.items() if loss != weighted[key]} == stages


def _predictor(**arguments):
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    return CellOutputLayers(ShapeSpec(channels=5), box2box_transform=transform, num_classes=CLASSES, **arguments)


def _box_losses(predictor, classes, logits):
    proposals = Instances((SIDE, SIDE))
    proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20]]).repeat(len(classes), 1))
    proposals.gt_classes = classes
    with EventStorage():
        return predictor.losses((logits, torch.zeros(len(classes), 4 * CLASSES)), [proposals])


def test_weighted_classification_is_torchs():
    weights = [0.5, 3.0, 1.0, 0.0, 0.25]
    logits = torch.randn(40, CLASSES + 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    classes = torch.arange(40) % (CLASSES + 1)
    found = _box_losses(_predictor(class_weights=weights, loss_weight={"loss_cls": 2.0}), classes, logits)["loss_cls"]
    torch.testing.assert_close(found, 2 * F.cross_entropy(logits, classes, weight=torch.tensor(weights)))
    equal = _box_losses(_predictor(class_weights=[7.0] * 5), classes, logits)["loss_cls"]
    torch.testing.assert_close(equal, F.cross_entropy(logits, classes))
    plain = _box_losses(_predictor(), classes, logits)["loss_cls"]
    assert plain == F.cross_entropy(logits, classes)


@pytest.mark.parametrize("count", [0, 3])
def test_weighted_classification_is_zero_where_nothing_counts(count):
    logits = torch.randn(count, CLASSES + 1, requires_grad=True)
    predictor = _predictor(class_weights=[1.0, 1.0, 1.0, 1.0, 0.0])
    loss = _box_losses(predictor, torch.full((count,), CLASSES), logits)["loss_cls"]
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_parameters_are_named_as_detectron2s():
    predictor = _predictor(class_weights=[1.0] * 5)
    assert set(predictor.state_dict()) == {"cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"}
    assert isinstance(predictor, FastRCNNOutputLayers)
    cfg, shape = get_cfg(MODELS[0], SMALL), ShapeSpec(channels=16, width=14, height=14)
    ours, theirs = CellMaskHead(cfg, shape), MaskRCNNConvUpsampleHead(cfg, shape)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    cfg, shapes = get_cfg(MODELS[2], SMALL), {"p2": ShapeSpec(channels=16, stride=4)}
    assert list(CellPointRendMaskHead(cfg, shapes).state_dict()) == list(PointRendMaskHead(cfg, shapes).state_dict())


LARGE = 30.0  # a logit whose probability is 1 in float32


@pytest.mark.parametrize(
    ("logits", "targets", "expected"),
    [
        pytest.param([[LARGE, LARGE, -LARGE]], [[1, 1, 0]], 0.0, id="equal"),
        pytest.param([[LARGE, LARGE, -LARGE]], [[0, 0, 1]], 1 - 1 / (2 + 1 + 1), id="apart"),
        pytest.param([[LARGE, LARGE, -LARGE]], [[0, 1, 1]], 1 - (2 + 1) / (2 + 2 + 1), id="one of three shared"),
        pytest.param([[0.0, 0.0]], [[1, 0]], 1 - (1 + 1) / (0.5 + 1 + 1), id="halves, squared in the denominator"),
        pytest.param([[-LARGE, -LARGE]], [[0, 0]], 0.0, id="both empty"),
        pytest.param([[LARGE, -LARGE], [LARGE, -LARGE]], [[1, 0], [0, 0]], (0 + 0.5) / 2, id="mean over masks"),
    ],
)
def test_dice_by_hand(logits, targets, expected):
    assert dice_loss(torch.tensor(logits), torch.tensor(targets)).item() == pytest.approx(expected, abs=1e-6)


def test_dice_weighs_small_and_large_masks_alike():
    small, large = torch.zeros(1, 28, 28), torch.zeros(1, 28, 28)
    small[0, :4, :4] = large[0, :24, :24] = 1
    missed = [dice_loss(torch.full((1, 28, 28), -LARGE), mask).item() for mask in (small, large)]
    assert missed == pytest.approx([1 - 1 / 17, 1 - 1 / 577])


def test_dice_without_masks_is_a_zero_with_a_gradient():
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    loss = dice_loss(logits * 2, torch.zeros(0, 28, 28))
    loss.backward()
    assert loss == 0 and logits.grad.shape == (0, 28, 28)


def test_dice_of_float16_logits_is_computed_in_float32():
    logits = torch.full((1, 256, 256), 3.0)  # 65,536 pixels: their sum is over float16's largest number
    found = dice_loss(logits.half(), torch.ones_like(logits))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(dice_loss(logits, torch.ones_like(logits)).item())


def test_each_masks_logits_are_those_of_its_class():
    logits = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    images = [Instances((9, 9), gt_classes=torch.tensor([2])), Instances((9, 9), gt_classes=torch.tensor([0]))]
    assert torch.equal(own_class_logits(logits, images), torch.stack([logits[0, 2], logits[1, 0]]))
    assert torch.equal(own_class_logits(logits[:, :1], images), logits[:, 0])


def test_mask_losses_are_mask_rcnns_and_dice_of_the_same_crops():
    images = [_instances(4), Instances((SIDE, SIDE), gt_classes=torch.zeros(0, dtype=torch.int64)), _instances(2, 5)]
    for own in images:
        own.proposal_boxes = Boxes(own.gt_boxes.tensor + 1.5) if len(own) else Boxes(torch.zeros(0, 4))
    cells = [own for own in images if len(own)]
    count = sum(map(len, images))
    logits = torch.randn(count, CLASSES, 28, 28, generator=torch.Generator().manual_seed(0))
    with EventStorage():
        bce = mask_rcnn_loss(logits, images)
        assert mask_losses(logits, images, dice=False) == {"loss_mask": bce}
        found = mask_losses(logits, images, dice=True)
    crops = torch.cat([own.gt_masks.crop_and_resize(own.proposal_boxes.tensor, 28) for own in cells])
    classes = torch.cat([own.gt_classes for own in cells])
    assert found == {"loss_mask": bce, "loss_mask_dice": dice_loss(logits[torch.arange(count), classes], crops)}


@KINDS
def test_dice_is_a_loss_of_its_own(name):
    overrides = ["CELLSEG.LOSS.MASK", "dice_bce"]
    (_, plain), (model, both) = _losses(name), _losses(name, overrides)
    added = {"loss_mask_dice", "loss_mask_point_dice"} if "pointrend" in name else {"loss_mask_dice"}
    assert both.keys() - plain.keys() == added
    assert all(both[key] == loss for key, loss in plain.items())
    assert all(0 < both[key] < 1 for key in added)
    sum(both[key] for key in added).backward()
    parameters = list(model.roi_heads.mask_head.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters)


@KINDS
@pytest.mark.parametrize("mask_loss", ["bce", "dice_bce"])
def test_without_cells_the_mask_losses_are_zero_and_have_a_gradient(name, mask_loss):
    model, losses = _losses(name, ["CELLSEG.LOSS.MASK", mask_loss], cells=0)
    masks = {key: loss for key, loss in losses.items() if key.startswith("loss_mask")}
    assert len(masks) == (2 if "pointrend" in name else 1) * (2 if mask_loss == "dice_bce" else 1)
    assert all(loss == 0 and loss.requires_grad for loss in masks.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.roi_heads.mask_head.parameters())


@KINDS
def test_losses_are_finite_float32_under_autocast(name):
    overrides = ["CELLSEG.LOSS.MASK", "dice_bce", "CELLSEG.LOSS.CLASS_WEIGHTS", "[1.0, 2, 3, 4, 5]"]
    _, losses = _losses(name, overrides, autocast=torch.bfloat16)
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())


def test_the_mask_head_is_built_without_a_config():
    head = CellMaskHead(ShapeSpec(channels=8), num_classes=2, conv_dims=[8, 8], dice=True, loss_weight=0.5)
    own = _instances(3)
    own.gt_classes %= 2
    own.proposal_boxes = own.gt_boxes
    with EventStorage():
        losses = head.train()(torch.randn(len(own), 8, 14, 14), [own])
    assert set(losses) == {"loss_mask", "loss_mask_dice"}
    assert losses["loss_mask"].item() == pytest.approx(0.5 * math.log(2), rel=0.05)  # logits near zero
