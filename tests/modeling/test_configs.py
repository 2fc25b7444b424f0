import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

import cellseg_d2.modeling  # noqa: F401  (registers the laptop model's backbone)
from cellseg_d2.config import config_names, get_cfg
from cellseg_d2.engine.setup import count_parameters
from cellseg_d2.inference.predictor import to_cell_instances
from cellseg_d2.structures import LabelMasks

MODELS = [name for name in config_names() if not name.startswith("Base")]


def _small_cfg(name):
    cfg = get_cfg(name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "4"])
    cfg.TEST.DETECTIONS_PER_IMAGE = 3
    cfg.MODEL.POINT_HEAD.NUM_CLASSES = 4
    # From random weights frozen statistics make activations explode: this is about the config, not about the weights.
    if "RESNETS" in cfg.MODEL and cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone":
        cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.EFFICIENTNET_LITE.NORM = "BN"
    return cfg


@pytest.mark.parametrize("name", MODELS)
def test_every_config_builds_within_the_parameter_limit_and_trains_a_step(name):
    torch.manual_seed(0)
    model = build_model(_small_cfg(name))
    assert 4e6 < count_parameters(model) < 200e6
    instances = Instances((64, 96))
    labels = torch.zeros(1, 64, 96, dtype=torch.int32)
    labels[0, 8:24, 8:24], labels[0, 30:60, 40:90] = 1, 2
    instances.gt_masks = LabelMasks(labels, torch.tensor([0, 0]), torch.tensor([1, 2]))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor([0, 3])
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with EventStorage():
        losses = model.train()([{"image": image, "instances": instances, "height": 64, "width": 96}] * 2)
    assert {"loss_mask", "loss_rpn_cls", "loss_rpn_loc"} < set(losses)
    assert ("loss_mask_point" in losses) == ("pointrend" in name)
    assert ("loss_cls_stage2" in losses) == ("cascade" in name)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        predictions = model.eval().inference([{"image": image}], do_postprocess=False)
    assert to_cell_instances(predictions[0], 0.5).image_size == (64, 96)


def test_the_recipes_model_is_the_recipes():
    cfg = get_cfg("mask_rcnn_X_101_32x8d_FPN")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (101, 32, 8)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (0.005, 0.9, 0.0001)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.IMS_PER_BATCH, cfg.CELLSEG.EPOCHS) == ((), 2, 200)
    assert cfg.MODEL.ROI_MASK_HEAD.CONV_DIM == 256
    # what its ImageNet weights need
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", False)
    assert cfg.MODEL.PIXEL_STD == [57.375, 57.120, 58.395]
