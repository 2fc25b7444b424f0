"""Box size as an input of the box head: RoIAlign shows it every box at one size."""

from __future__ import annotations

import math

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn

HIDDEN = 32
USUAL_SIDE = 32.0
"""Pixels of a side whose logarithm is to be 0."""

GAIN = 8.0
"""What the learned function is multiplied by, so that a short training moves it as fast as what it is added to."""


class SizedPooler(nn.Module):
    """A pooler of RoI features that adds a learned function of each box's width and height to all of its pixels.

    It begins as zero, so that weights that were trained without it are as good as they were.

    Args:
        pooler: Detectron2's ``ROIPooler``.
        channels: the number of feature channels.
    """

    def __init__(self, pooler: nn.Module, channels: int) -> None:
        super().__init__()
        self.pooler = pooler
        self.size = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, channels))
        nn.init.zeros_(self.size[2].weight)
        nn.init.zeros_(self.size[2].bias)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """See ``ROIPooler``: (B, C, h, w) of the boxes of all images."""
        pooled = self.pooler(features, boxes)
        corners = torch.cat([image_boxes.tensor for image_boxes in boxes]).float()
        sides = (corners[:, 2:] - corners[:, :2]).clamp(min=1).log() - math.log(USUAL_SIDE)
        return pooled + GAIN * self.size(sides)[:, :, None, None]
