"""Convolutions that contain the batch normalisation behind them: one pass over the memory in place of two."""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from cellseg_d2.modeling.efficientnet_lite import EfficientNetLite0

BATCH_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)

LITE_PAIRS = (("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
"""Convolutions and what follows them in EfficientNet-Lite0 and its blocks, which keep them side by side."""


def fold_norms(model: nn.Module) -> int:
    """Folds batch normalisation into convolutions in place; the model can predict afterwards, but not be trained.

    Frozen statistics, and BatchNorm in evaluation, are a factor and a shift per channel, which a convolution can do
    itself. GroupNorm depends on the image and stays.

    Args:
        model: in evaluation mode. Known are the convolutions that hold their ``norm``, as Detectron2's do, and
            EfficientNet-Lite0.

    Returns:
        The number of layers that were folded.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("only a model in evaluation mode can be folded")
    folded = 0
    for module in list(model.modules()):
        if isinstance(getattr(module, "norm", None), BATCH_NORMS) and isinstance(module.weight, nn.Parameter):
            _fold(module, module.norm)
            module.norm = None
            folded += 1
        if isinstance(module, EfficientNetLite0):
            folded += sum(_fold_lite(part) for part in (module, *module._blocks))
    return folded


def _fold_lite(part: nn.Module) -> int:
    """Folds a stem or a block of EfficientNet-Lite0."""
    folded = 0
    for conv, norm in LITE_PAIRS:
        if hasattr(part, conv) and isinstance(getattr(part, norm), BATCH_NORMS):
            _fold(getattr(part, conv), getattr(part, norm))
            setattr(part, norm, nn.Identity())
            folded += 1
    for module in part.children():
        if isinstance(module, nn.ReLU6):
            module.inplace = True  # what it reads is a convolution's output, which nothing else needs
    return folded


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.Module) -> None:
    """Multiplies a convolution's kernels by the normalisation's factors, in float64, and gives it the shift as bias."""
    shift = norm.running_mean.double()
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    weight, bias = norm.weight, norm.bias
    factor = factor if weight is None else factor * weight.double()
    before = 0.0 if conv.bias is None else conv.bias.double()
    after = (before - shift) * factor + (0.0 if bias is None else bias.double())
    kernels = conv.weight.double() * factor.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(kernels.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(after.to(conv.weight.dtype), requires_grad=False)
