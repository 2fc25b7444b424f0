"""RoIAlign that keeps the boxes exact under mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import nn
from torchvision.ops import roi_align

from cellseg_d2.modeling.pooler import CellPooler


class ExactROIAlign(ROIAlign):
    """``ROIAlign`` with boxes in float32; Detectron2's rounds them to the type of the features.

    In bfloat16, coordinates beyond 256 px are multiples of 2 px: the features of a 10 px cell would come from another
    place than its targets.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) of any float type, (B, 5) boxes with their image's number first -> (B, C, h, w) of that type."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input.float(), rois.float(), *options).to(input.dtype)


def use_exact_roi_align(module: nn.Module) -> None:
    """Replaces every ``ROIAlign`` inside a module by :class:`ExactROIAlign`; neither has parameters."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is ROIAlign:
                exact = ExactROIAlign(child.output_size, child.spatial_scale, child.sampling_ratio, child.aligned)
                setattr(parent, name, exact)


def use_fast_poolers(module: nn.Module) -> None:
    """Replaces every ``ROIPooler`` inside a module by :class:`CellPooler`; neither has parameters."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is ROIPooler:
                setattr(parent, name, CellPooler(child))


class ExactBoxes:
    """Mixin for Detectron2's RoI heads that pools features from exact boxes, and fast in training on a CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_exact_roi_align(self)
        use_fast_poolers(self)
