"""Group normalisation of features whose channels lie side by side, in training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class CellGroupNorm(nn.GroupNorm):
    """torch's group normalisation, which on a CPU takes several times as long for this order of the memory.

    Its kernels for it are slow in bfloat16, and before torch 2.14 in float32 too. Parameters keep their names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, type and order."""
        by_channel = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if not (self.training and by_channel and x.device.type == "cpu"):
            return super().forward(x)
        return _Normalised.apply(x, self.weight, self.bias, self.num_groups, self.eps)


def use_fast_group_norm(module: nn.Module) -> None:
    """Replaces every ``GroupNorm`` with factors inside a module by :class:`CellGroupNorm`, with its parameters."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.GroupNorm and child.affine:
                norm = CellGroupNorm(child.num_groups, child.num_channels, child.eps)
                norm.weight, norm.bias = child.weight, child.bias
                setattr(parent, name, norm)


class _Normalised(torch.autograd.Function):
    """Sums over pixels first, which are fast sums of rows, and over the channels of a group then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        pixels = _pixels(x)
        away = pixels - _group_mean(pixels.mean(dim=1), groups)[:, None]
        variance = _group_mean(away.square().mean(dim=1), groups)
        steepness = (variance + eps).rsqrt()
        ctx.groups = groups
        ctx.save_for_backward(away, steepness, weight)
        return _image(torch.addcmul(bias, away, (steepness * weight)[:, None]), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        away, steepness, weight = ctx.saved_tensors
        pixels, count = _pixels(gradient), away.shape[1]
        total, along = pixels.sum(dim=1), (pixels * away).sum(dim=1) * steepness
        level = _group_mean(total * weight, ctx.groups) / count
        slope = _group_mean(along * weight, ctx.groups) / count
        inner = torch.addcmul(-(steepness * level)[:, None], pixels, (steepness * weight)[:, None])
        inner.addcmul_(away, (steepness.square() * slope)[:, None], value=-1)
        return _image(inner, gradient), along.sum(dim=0), total.sum(dim=0), None, None


def _pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C), at least float32."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))


def _image(pixels: Tensor, like: Tensor) -> Tensor:
    """(N, H W, C) -> (N, C, H, W) with the type of ``like``."""
    return pixels.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2).to(like.dtype)


def _group_mean(values: Tensor, groups: int) -> Tensor:
    """(N, C) -> (N, C), each the mean of its group."""
    means = values.unflatten(1, (groups, -1)).mean(dim=2, keepdim=True)
    return means.expand(-1, -1, values.shape[1] // groups).flatten(1)
