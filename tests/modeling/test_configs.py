import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from drawing import discs, noise

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model's backbone)
from cellseg_d2.config import config_names, get_cfg
from cellseg_d2.inference.paste import to_cell_instances
from cellseg_d2.modeling.build import count_parameters
from cellseg_d2.structures import LabelMasks

MODELS = [name for name in config_names() if not name.startswith("Base")]
SIZE = (64, 96)
CLASSES = 4

DICE = ["CELLSEG.LOSS.MASK", "dice_bce"]
# What these cases are about is in the heads: a tenth of the time.
SHALLOW = ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.NUM_GROUPS", "1", "MODEL.RESNETS.WIDTH_PER_GROUP", "64"]

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
BOX_LOSSES = {"loss_cls", "loss_box_reg"}


def _small_cfg(name, overrides=()):
    classes = ["MODEL.ROI_HEADS.NUM_CLASSES", str(CLASSES), "MODEL.POINT_HEAD.NUM_CLASSES", str(CLASSES)]
    cfg = get_cfg(name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *classes, *overrides])
    cfg.TEST.DETECTIONS_PER_IMAGE = 3
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 100, 32
    # From random weights frozen statistics make activations explode: this is about the config, not about the weights.
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.EFFICIENTNET_LITE.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


def _batch():
    """Two images of noise with drawn cells, small and large."""
    batch = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        label_map = torch.from_numpy(discs(rng, *SIZE, 8, radius=12))
        ids = torch.unique(label_map)[1:]
        instances = Instances(SIZE)
        instances.gt_masks = LabelMasks(label_map[None], torch.zeros_like(ids), ids)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.arange(len(ids)) % CLASSES
        image = torch.from_numpy(noise(rng, *SIZE)).permute(2, 0, 1)
        batch.append({"image": image, "instances": instances, "height": SIZE[0], "width": SIZE[1]})
    return batch


def _expected_losses(name, dice):
    shape = {"loss_shape"} if get_cfg(name).CELLSEG.SHAPE_CLASSIFIER else set()
    boxes = {f"{loss}_stage{k}" for loss in BOX_LOSSES for k in range(3)} if "cascade" in name else BOX_LOSSES
    masks = {"loss_mask", "loss_mask_point"} if "pointrend" in name else {"loss_mask"}
    return RPN_LOSSES | boxes | masks | shape | ({f"{loss}_dice" for loss in masks} if dice else set())


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *(pytest.param(name, [], id=name) for name in MODELS),
        pytest.param("mask_rcnn_lite0_FPN", DICE, id="lite0 with dice"),
        *(
            pytest.param(name, [*DICE, *SHALLOW], id=f"{name.partition('_X_')[0]} with dice")
            for name in MODELS
            if "_X_" in name and "DCN" not in name
        ),
    ],
)
def test_every_config_builds_within_the_parameter_limit_and_trains(name, overrides):
    torch.manual_seed(0)
    model = build_model(_small_cfg(name, overrides)).train()
    assert 4e6 < count_parameters(model) < 200e6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    # Norms and biases move by less than float32 resolves at times.
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    batch = _batch()
    for iteration in range(2):
        with EventStorage(iteration):
            losses = model(batch)
        assert set(losses) == _expected_losses(name, dice=bool(overrides))
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0, error_if_nonfinite=True)
        optimizer.step()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []
    with torch.no_grad():
        predictions = model.eval().inference([{"image": batch[0]["image"]}], do_postprocess=False)
    assert to_cell_instances(predictions[0], 0.5).image_size == SIZE


def test_the_recipes_model_is_the_recipes():
    cfg = get_cfg("mask_rcnn_X_101_32x8d_FPN")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (101, 32, 8)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (0.005, 0.9, 0.0001)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.IMS_PER_BATCH, cfg.CELLSEG.EPOCHS) == ((), 2, 200)
    assert cfg.MODEL.ROI_MASK_HEAD.CONV_DIM == 256
    # what its ImageNet weights need
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", False)
    assert cfg.MODEL.PIXEL_STD == [57.375, 57.120, 58.395]


def _flat(node, prefix=""):
    for key, value in node.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_original_recipe_differs_where_it_says():
    original = dict(_flat(get_cfg("ablations/original_recipe")))
    ours = dict(_flat(get_cfg("mask_rcnn_X_101_32x8d_FPN")))
    assert {key: value for key, value in original.items() if value != ours[key]} == {
        "CELLSEG.IGNORE_CROWD": False,
        "CELLSEG.INFERENCE.SUPPRESSION": "none",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.5,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }
