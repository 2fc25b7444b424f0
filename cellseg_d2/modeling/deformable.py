"""ResNets with deformable convolutions that run on CPUs too.

Detectron2's kernels need CUDA: modulated ones (Zhu et al., Deformable ConvNets v2, CVPR 2019) have nothing else, plain
ones (Dai et al., Deformable Convolutional Networks, ICCV 2017) have no backward. torchvision's run on both, and under
CUDA's autocast they compute in float32, so that bfloat16 can be used, which Detectron2's do not know.

Both read the same channels, as their sources come from the same kernel: at kernel point k, counted row by row, the
offset in y is channel 2k, that in x is channel 2k + 1, and the mask is channel k; points outside of the image are zero.
So Detectron2's checkpoints mean the same here. (Its block calls the two halves of the offsets x and y; they are not.)
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import DeformConv, ModulatedDeformConv, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class TorchvisionDeformConv(nn.Module):
    """One of Detectron2's deformable convolutions, with its very parameters, run by torchvision.

    Args:
        conv: whose parameters, normalisation and activation it takes over, so that names in checkpoints stay.
    """

    def __init__(self, conv: DeformConv | ModulatedDeformConv) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.weight = conv.weight
        self.register_parameter("bias", conv.bias)
        self.norm = conv.norm
        self.activation = conv.activation

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolves at shifted points.

        Args:
            x: (N, C, H, W).
            offset: (N, 2 G P, H', W') for G deformable groups and P kernel points, (y, x) of each point, in pixels.
            mask: (N, G P, H', W'), factor of each point; None for the plain deformable convolution.

        Returns:
            (N, C', H', W').
        """
        x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def use_torchvision_deform_conv(module: nn.Module) -> None:
    """Puts :class:`TorchvisionDeformConv` in place of every deformable convolution below a module."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (DeformConv, ModulatedDeformConv)):
                setattr(parent, name, TorchvisionDeformConv(child))


@BACKBONE_REGISTRY.register()
def build_cell_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ResNet with FPN, whose deformable stages, if MODEL.RESNETS asks for any, run on CPUs too."""
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    use_torchvision_deform_conv(backbone)
    return backbone
