from bisect import bisect

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.utils.file_io import PathManager
from efficientnet_lite_pytorch import EfficientNet

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling import build_efficientnet_lite0_fpn_backbone
from cellseg_d2.modeling.efficientnet_lite import EfficientNetLite0
from cellseg_d2.weights.locations import register_package_weights

STAGES = ["res2", "res3", "res4", "res5"]


def test_stages_have_the_stated_shapes():
    backbone = EfficientNetLite0(STAGES, "FrozenBN").eval()
    outputs = backbone(torch.zeros(1, 3, 64, 96))
    for name, shape in backbone.output_shape().items():
        assert outputs[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize(("norm", "frozen"), [("FrozenBN", True), ("BN", False)])
def test_norm_is_frozen_where_asked(norm, frozen):
    modules = list(EfficientNetLite0(STAGES, norm).modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in modules) == frozen
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in modules) != frozen


def stage_of(name):
    """The stage, 1 .. 5, of a parameter or module by its name in checkpoints; None for what is of no stage."""
    part, _, rest = name.partition(".")
    if part == "_blocks" and rest:
        return 2 + bisect([3, 5, 11], int(rest.split(".")[0]))
    return 1 if part in ("_conv_stem", "_bn0") else None


@pytest.mark.parametrize("freeze_at", range(6))
def test_stages_from_the_beginning_are_frozen(freeze_at):
    backbone = EfficientNetLite0(STAGES, "BN", freeze_at)
    for number in range(1, 6):
        parameters = [value for name, value in backbone.named_parameters() if stage_of(name) == number]
        inner = [module for name, module in backbone.named_modules() if stage_of(name) == number]
        assert {parameter.requires_grad for parameter in parameters} == {number > freeze_at}
        assert any(isinstance(module, FrozenBatchNorm2d) for module in inner) == (number <= freeze_at)
        assert any(isinstance(module, torch.nn.BatchNorm2d) for module in inner) == (number > freeze_at)


def test_frozen_stages_do_not_change_in_training():
    backbone = EfficientNetLite0(STAGES, "BN", 3).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(output.square().mean() for output in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("_blocks.") and int(name.split(".")[1]) >= 5}


def test_the_config_freezes_stages():
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["MODEL.EFFICIENTNET_LITE.NORM", "BN"])
    trained = []
    for freeze_at in (cfg.MODEL.BACKBONE.FREEZE_AT, 1):
        cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
        bottom_up = build_efficientnet_lite0_fpn_backbone(cfg, ShapeSpec(channels=3)).bottom_up
        trained.append(dict(bottom_up.named_parameters())["_conv_stem.weight"].requires_grad)
    assert trained == [True, False]


@pytest.mark.parametrize("freeze_at", [-1, 6])
def test_stages_that_are_not_there_cannot_be_frozen(freeze_at):
    with pytest.raises(CellSegError, match=r"MODEL\.BACKBONE\.FREEZE_AT"):
        EfficientNetLite0(STAGES, "BN", freeze_at)


def test_imagenet_weights_give_the_features_of_the_original_network():
    register_package_weights()
    weights = get_cfg("mask_rcnn_lite0_FPN").MODEL.WEIGHTS
    ours = EfficientNetLite0(STAGES, "FrozenBN").eval()
    DetectionCheckpointer(ours).load(weights)
    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(
        torch.load(PathManager.get_local_path(weights.partition("?")[0]), map_location="cpu", weights_only=True)
    )
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = torch.clamp(original._bn0(original._conv_stem(image)), 0, 6)
        for block in original._blocks:
            x = block(x)
        torch.testing.assert_close(ours(image)["res5"], x)


def test_fpn_adds_five_levels():
    cfg = get_cfg("mask_rcnn_lite0_FPN")
    backbone = build_efficientnet_lite0_fpn_backbone(cfg, ShapeSpec(channels=3))
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "p2": 4,
        "p3": 8,
        "p4": 16,
        "p5": 32,
        "p6": 64,
    }
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize(
    ("stages", "norm", "named"),
    [(["res9"], "BN", "MODEL.FPN.IN_FEATURES"), (STAGES, "GroupNormal", "MODEL.EFFICIENTNET_LITE")],
)
def test_unknown_values_are_refused(stages, norm, named):
    with pytest.raises(CellSegError, match=named):
        EfficientNetLite0(stages, norm)
