"""Deformable convolutions without their operator, which few runtimes have: samples of the image, then a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellseg_d2.modeling.deformable import DeformableConv


class SampledConv(nn.Module):
    """Computes what a :class:`cellseg_d2.modeling.deformable.DeformableConv` does.

    The image is sampled at the shifted points of the kernel; a convolution of 1 x 1 over channels times points does the
    rest.

    Args:
        conv: the layer that it replaces; it keeps its parameters.
    """

    def __init__(self, conv: DeformableConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``DeformableConv``, for one image."""
        conv, weight = self.conv, self.conv.weight
        points = int(weight.shape[2] * weight.shape[3])
        groups = int(offset.shape[1]) // (2 * points)
        channels = int(x.shape[1])
        grid = self._points(x, offset, groups)
        rows, columns = offset.shape[2], offset.shape[3]
        shares = x.reshape(groups, channels // groups, x.shape[2], x.shape[3])
        sampled = F.grid_sample(shares, grid.flatten(1, 2), align_corners=False)  # zeros outside, as the operator
        sampled = sampled.reshape(groups, channels // groups, points, rows, columns)
        if mask is not None:
            sampled = sampled * mask.reshape(groups, 1, points, rows, columns)
        sampled = sampled.reshape(1, channels * points, rows, columns)
        flat = weight.reshape(weight.shape[0], weight.shape[1] * points, 1, 1)
        out = F.conv2d(sampled, flat, conv.bias, groups=channels // weight.shape[1])
        out = out if conv.norm is None else conv.norm(out)
        return out if conv.activation is None else conv.activation(out)

    def _points(self, x: Tensor, offset: Tensor, groups: int) -> Tensor:
        """(G, P, H', W', 2): where each kernel point of each output pixel lies, (x, y), in -1..1 over the image."""
        kernel, stride = self.conv.weight.shape[2:], self.conv.stride
        padding, dilation = self.conv.padding, self.conv.dilation
        shifts = offset.reshape(groups, kernel[0] * kernel[1], 2, offset.shape[2], offset.shape[3])
        steps = [torch.arange(count, device=x.device) * step for count, step in zip(kernel, dilation)]
        starts = [torch.arange(offset.shape[axis], device=x.device) * stride[axis - 2] for axis in (2, 3)]
        y = steps[0].repeat_interleave(kernel[1])[:, None, None] + starts[0][:, None] - padding[0] + shifts[:, :, 0]
        across = steps[1].repeat(kernel[0])[:, None, None] + starts[1] - padding[1] + shifts[:, :, 1]
        return torch.stack([(2 * across + 1) / x.shape[3] - 1, (2 * y + 1) / x.shape[2] - 1], dim=-1)


def without_deformable_operators(model: nn.Module) -> nn.Module:
    """The model, in which each ``DeformableConv`` has become a :class:`SampledConv` that computes the same."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DeformableConv) and not isinstance(parent, SampledConv):
                setattr(parent, name, SampledConv(child))
    return model
