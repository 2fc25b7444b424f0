"""The layers of EfficientNet-Lite0 in training: the same numbers in fewer passes over the memory."""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


def in_channel_order(x: Tensor) -> Tensor:
    """The same numbers, on a CPU with the channels of a pixel side by side: what oneDNN's kernels compute fastest."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def stem(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) images -> (N, 32, H / 2, W / 2)."""
    return F.relu6(_normalised(conv, norm, x), inplace=True)


def block(module: nn.Module, x: Tensor) -> Tensor:
    """What an inverted residual block of the network's package computes without drop-connect and squeeze-excite."""
    inside = x
    if hasattr(module, "_expand_conv"):
        inside = F.relu6(_normalised(module._expand_conv, module._bn0, inside), inplace=True)
    inside = F.relu6(_normalised(module._depthwise_conv, module._bn1, inside), inplace=True)
    inside = _normalised(module._project_conv, module._bn2, inside)
    is_shortcut = module.id_skip and module._depthwise_conv.stride[0] == 1 and inside.shape == x.shape
    return inside + x if is_shortcut else inside


def _normalised(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """A convolution and the normalisation behind it; frozen statistics are multiplied into its kernels."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(_convolved(conv, conv.weight, conv.bias, x))
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return _convolved(conv, conv.weight * factor.view(-1, 1, 1, 1), norm.bias - norm.running_mean * factor, x)


def _convolved(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """The package's convolution with other kernels; equal padding on both sides needs no copy of the image."""
    left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    padding, dilation, on_cpu = (top, left), conv.dilation, x.device.type == "cpu"
    if left != right or top != bottom:
        x, padding = conv.static_padding(x), (0, 0)
    if on_cpu and conv.kernel_size == (1, 1):
        # A kernel of one pixel has nothing to dilate. In one thread torch leaves only dilated ones of this size to
        # oneDNN, which is faster than torch's matrix product.
        dilation = (2, 2)
    if on_cpu and conv.groups > 1 and x.dtype == torch.bfloat16:
        # oneDNN's gradient of depthwise kernels is slow in bfloat16, and several times as fast in float32.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.float(), weight, bias, conv.stride, padding, dilation, conv.groups).to(x.dtype)
    return F.conv2d(x, weight, bias, conv.stride, padding, dilation, conv.groups)
