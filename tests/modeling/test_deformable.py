import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch.nn import functional as F

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.deformable import DeformableBottleneck, DeformableConv, build_cell_resnet_fpn_backbone

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 8, 7, 9
POINTS = 9

SMALL = [
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.NUM_GROUPS", "2", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.FPN.OUT_CHANNELS", "8"),
]


def _image():
    return torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def _conv(**arguments):
    torch.manual_seed(1)
    options = {"kernel_size": 3, "padding": 1, "bias": False, "groups": 2, **arguments}
    return DeformableConv(Conv2d(CHANNELS, 6, **options))


def _offsets(dy, dx, points=range(POINTS)):
    """(N, 18, H, W), the layout that checkpoints have: y of point 0, x of point 0, y of point 1, ..."""
    offset = torch.zeros(BATCH, POINTS, 2, HEIGHT, WIDTH)
    for point in points:
        offset[:, point, 0], offset[:, point, 1] = dy, dx
    return offset.flatten(1, 2)


def _shifted(image, dy, dx):
    """What the image shows (dy, dx) pixels further, zero outside."""
    padded = F.pad(image, (3, 3, 3, 3))
    return padded[:, :, 3 + dy : 3 + dy + HEIGHT, 3 + dx : 3 + dx + WIDTH]


@pytest.mark.parametrize("arguments", [{}, {"dilation": 2, "padding": 2}, {"groups": 1}], ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_without_offsets_it_is_the_plain_convolution_times_the_mask(factor, arguments):
    conv = _conv(**arguments)
    mask = torch.full((BATCH, POINTS, HEIGHT, WIDTH), factor)
    options = {"padding": 1, "groups": 2, **arguments}
    expected = factor * F.conv2d(_image(), conv.weight, **options)
    torch.testing.assert_close(conv(_image(), _offsets(0, 0), mask), expected)


def test_stride_bias_norm_and_activation_are_the_convolutions():
    torch.manual_seed(1)
    plain = Conv2d(CHANNELS, 6, kernel_size=3, stride=2, padding=1, norm=get_norm("FrozenBN", 6), activation=F.relu)
    plain.norm.running_mean += 0.25
    with torch.no_grad():
        plain.bias += 0.5
    expected = plain(_image())
    offset, mask = torch.zeros(BATCH, 18, *expected.shape[2:]), torch.ones(BATCH, 9, *expected.shape[2:])
    torch.testing.assert_close(DeformableConv(plain)(_image(), offset, mask), expected)


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, 1), (-1, 2)])
def test_a_whole_pixel_of_offset_looks_a_pixel_further(dy, dx):
    """Even channels are y, odd ones x: the other way round (0, 1) would look a row further, not a column."""
    conv, mask = _conv(padding=1), torch.ones(BATCH, POINTS, HEIGHT, WIDTH)
    found = conv(_image(), _offsets(dy, dx), mask)
    moved = F.conv2d(_shifted(_image(), dy, dx), conv.weight, padding=1, groups=2)
    inner = slice(2, -2)  # at the border plain convolution pads what was moved, deformable what is there
    torch.testing.assert_close(found[..., inner, inner], moved[..., inner, inner])


@pytest.mark.parametrize("point", range(POINTS))
def test_points_are_counted_row_by_row(point):
    conv, row, column = _conv(), point // 3 - 1, point % 3 - 1
    mask = torch.zeros(BATCH, POINTS, HEIGHT, WIDTH)
    mask[:, point] = 1
    found = conv(_image(), _offsets(1, -1, points=[point]), mask)
    only = conv.weight[:, :, point // 3, point % 3, None, None]
    expected = F.conv2d(_shifted(_image(), row + 1, column - 1), only, groups=2)
    torch.testing.assert_close(found, expected)


def test_half_a_pixel_of_offset_is_the_mean_of_two():
    conv, mask = _conv(), torch.ones(BATCH, POINTS, HEIGHT, WIDTH)
    half, none, whole = (conv(_image(), _offsets(dy, 0), mask) for dy in (0.5, 0, 1))
    torch.testing.assert_close(half, (none + whole) / 2)


def test_the_unmodulated_convolution_has_no_mask():
    conv = _conv()
    torch.testing.assert_close(conv(_image(), _offsets(0, 0)), F.conv2d(_image(), conv.weight, padding=1, groups=2))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("modulated", [True, False])
def test_a_block_without_learned_offsets_is_the_plain_block_with_its_mask(modulated, stride):
    torch.manual_seed(1)
    plain = BottleneckBlock(CHANNELS, 6, bottleneck_channels=4, num_groups=2, norm="FrozenBN", stride=stride)
    weight = plain.conv2.weight.detach().clone()
    block = DeformableBottleneck(plain, modulated=modulated, groups=2)
    found = block(_image())
    plain.conv2.weight = torch.nn.Parameter(weight / 2 if modulated else weight)  # the mask starts as sigmoid(0)
    torch.testing.assert_close(found, plain(_image()))


@pytest.mark.parametrize("modulated", [True, False])
def test_a_block_learns_its_offsets_on_the_cpu(modulated):
    plain = BottleneckBlock(CHANNELS, CHANNELS, bottleneck_channels=CHANNELS, num_groups=2, norm="BN")
    block = DeformableBottleneck(plain, modulated=modulated, groups=1)
    block(_image()).square().sum().backward()
    assert all(parameter.grad.any() for name, parameter in block.named_parameters() if "bias" not in name)
    assert block.conv2_offset.bias.grad.any()


@pytest.mark.parametrize(("modulated", "channels"), [(True, 27), (False, 18)])
def test_the_backbones_weights_have_detectron2s_names_and_order(modulated, channels):
    """Names as in the files of Detectron2's zoo; the order is what a checkpoint's optimizer state goes by."""
    cfg = get_cfg("mask_rcnn_X_101_32x8d_DCNv2_FPN", [*SMALL, "MODEL.RESNETS.DEFORM_MODULATED", str(modulated)])
    ours = build_cell_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    plain = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    expected = []
    for name, tensor in plain.state_dict().items():
        block, _, layer = name.partition(".conv2.")
        if layer == "weight" and not block.startswith("bottom_up.res2"):
            expected.append((f"{block}.conv2_offset.weight", (channels, tensor.shape[0], 3, 3)))
            expected.append((f"{block}.conv2_offset.bias", (channels,)))
        expected.append((name, tuple(tensor.shape)))
    assert [(name, tuple(tensor.shape)) for name, tensor in ours.state_dict().items()] == expected
    assert ("bottom_up.res3.0.conv2_offset.bias", (channels,)) in expected
    kinds = {type(block.conv2).__name__ for stage in ours.bottom_up.stages for block in stage}
    assert kinds == {"Conv2d", "DeformableConv"}


def test_a_resnet_without_bottlenecks_is_refused_in_one_line():
    cfg = get_cfg("mask_rcnn_X_101_32x8d_DCNv2_FPN", ["MODEL.RESNETS.DEPTH", "18"])
    with pytest.raises(CellSegError, match=r"DEFORM_ON_PER_STAGE needs MODEL\.RESNETS\.DEPTH 50, 101 or 152, not 18"):
        build_cell_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))


def test_frozen_stages_stay_frozen():
    cfg = get_cfg(
        "mask_rcnn_X_101_32x8d_DCNv2_FPN", [*SMALL, "MODEL.BACKBONE.FREEZE_AT", "3", "MODEL.RESNETS.NORM", "BN"]
    )
    bottom_up = build_cell_resnet_fpn_backbone(cfg, ShapeSpec(channels=3)).bottom_up
    conv = bottom_up.res3[0].conv2
    assert isinstance(conv, DeformableConv) and isinstance(conv.norm, FrozenBatchNorm2d)
    assert not any(parameter.requires_grad for parameter in bottom_up.res3.parameters())
    assert all(parameter.requires_grad for parameter in bottom_up.res4.parameters())


def test_without_deformable_stages_the_backbone_is_detectron2s():
    cfg = get_cfg("mask_rcnn_X_101_32x8d_FPN", SMALL)
    backbone = build_cell_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    assert not any(isinstance(module, DeformableConv) for module in backbone.modules())
