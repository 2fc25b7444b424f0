"""ResNets with deformable convolutions that run on any device, without Detectron2's compiled operators.

Detectron2's operators need CUDA: the modulated ones (Zhu et al., Deformable ConvNets v2, CVPR 2019) run only there, and
the plain ones (Dai et al., Deformable Convolutional Networks, ICCV 2017) have no backward pass on CPUs. Where
Detectron2 is not compiled, its classes only raise ImportError. torchvision's operators run on CPUs and GPUs. They
compute in float32 under CUDA's autocast, so training in bfloat16 works too.

Both libraries use the same order of channels, because their kernels have the same origin. For kernel point k, counted
row by row, channel 2k of the offsets is y, channel 2k + 1 is x, and channel k of the mask is its factor. Points outside
the image are zero. Parameters have Detectron2's names and order, so its checkpoints load. (Detectron2's block calls the
first half of the offset channels x and the second half y, which is not what they are.)
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from cellseg_d2.errors import CellSegError


class DeformableConv(nn.Module):
    """A deformable convolution.

    Args:
        conv: the plain convolution that it replaces; it keeps its parameters, geometry, norm and activation.
    """

    def __init__(self, conv: Conv2d) -> None:
        super().__init__()
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation
        self.weight = conv.weight
        self.register_parameter("bias", conv.bias)
        self.norm = conv.norm
        self.activation = conv.activation

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolves at shifted points.

        Args:
            x: (N, C, H, W).
            offset: (N, 2 G P, H', W') for G deformable groups and P kernel points: (y, x) per point, in pixels.
            mask: (N, G P, H', W'), a factor per point; None for the plain deformable convolution.

        Returns:
            (N, C', H', W').
        """
        x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class DeformableBottleneck(nn.Module):
    """Detectron2's bottleneck block with a deformable 3 x 3 convolution, whose offsets are learned and start at zero.

    Args:
        block: the plain block that it replaces; it keeps its layers, and frozen ones stay frozen.
        modulated: whether a mask is learned too (Deformable ConvNets v2).
        groups: number of deformable groups.
    """

    def __init__(self, block: BottleneckBlock, modulated: bool, groups: int) -> None:
        super().__init__()
        self.modulated = modulated
        # In Detectron2's order, because a checkpoint's optimizer state refers to parameters by their position.
        self.shortcut = block.shortcut
        self.conv1 = block.conv1
        plain = block.conv2
        points = plain.kernel_size[0] * plain.kernel_size[1]
        self.conv2_offset = Conv2d(
            plain.in_channels,
            (3 if modulated else 2) * points * groups,
            kernel_size=plain.kernel_size,
            stride=plain.stride,
            padding=plain.padding,
            dilation=plain.dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        self.conv2_offset.requires_grad_(plain.weight.requires_grad)
        self.conv2 = DeformableConv(plain)
        self.conv3 = block.conv3

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = F.relu_(self.conv1(x))
        offset, mask = self.conv2_offset(out), None
        if self.modulated:
            first, second, mask = torch.chunk(offset, 3, dim=1)
            offset, mask = torch.cat((first, second), dim=1), mask.sigmoid()
        out = self.conv3(F.relu_(self.conv2(out, offset, mask)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


@BACKBONE_REGISTRY.register()
def build_cell_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ResNet with FPN, with deformable convolutions in the stages that MODEL.RESNETS names.

    Raises:
        CellSegError: the config wants deformable stages in ResNet-18 or 34, which have no bottleneck blocks.
    """
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE) and resnets.DEPTH < 50:
        raise CellSegError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE needs MODEL.RESNETS.DEPTH 50, 101 or 152, not {resnets.DEPTH}"
        )
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    backbone = build_resnet_fpn_backbone(plain, input_shape)
    for stage, deformable in zip(backbone.bottom_up.stages, resnets.DEFORM_ON_PER_STAGE):
        for name, block in list(stage.named_children()) if deformable else []:
            setattr(stage, name, DeformableBottleneck(block, resnets.DEFORM_MODULATED, resnets.DEFORM_NUM_GROUPS))
    return backbone
