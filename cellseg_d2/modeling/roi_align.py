"""RoIAlign that keeps the boxes exact under mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign
from torch import nn
from torchvision.ops import roi_align


class ExactROIAlign(ROIAlign):
    """Detectron2's ``ROIAlign``, which rounds boxes to the type of the features, without that.

    In bfloat16 the corners of a box beyond 256 px lie 2 px apart: a cell of 10 px would be pooled from elsewhere than
    its targets are taken from.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) of any floating type and (B, 5) boxes with their image's number -> (B, C, h, w) of that type."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input.float(), rois.float(), *options).to(input.dtype)


def use_exact_roi_align(module: nn.Module) -> None:
    """Puts :class:`ExactROIAlign` in place of every ``ROIAlign`` below a module; neither has parameters."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is ROIAlign:
                exact = ExactROIAlign(child.output_size, child.spatial_scale, child.sampling_ratio, child.aligned)
                setattr(parent, name, exact)


class ExactBoxes:
    """Pools from exact boxes; mixed into any of Detectron2's RoI heads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_exact_roi_align(self)
