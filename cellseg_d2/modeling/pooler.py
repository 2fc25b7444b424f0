"""RoIAlign of all levels at once as weighted sums of pixels: for training on a CPU, because its gradient is fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class CellPooler(ROIPooler):
    """Detectron2's pooler with the same results up to rounding, whose gradient is several times as fast on a CPU.

    torchvision's RoIAlign finds the pixels around each sampling point again for every channel. Here they are found
    once, and all channels of a pixel lie side by side. Everywhere else than in training on a CPU this is Detectron2's
    pooler with the level poolers that it is given.

    Args:
        pooler: the pooler that it replaces; it keeps its level poolers.
    """

    def __init__(self, pooler: ROIPooler) -> None:
        nn.Module.__init__(self)
        self.output_size, self.level_poolers = pooler.output_size, pooler.level_poolers
        self.min_level, self.max_level = pooler.min_level, pooler.max_level
        self.canonical_level, self.canonical_box_size = pooler.canonical_level, pooler.canonical_box_size

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(N, C, H, W) features of each level and the boxes of N images -> (B, C, h, w) of the boxes of all images."""
        on_cpu = self.training and x[0].device.type == "cpu"
        if not on_cpu or not any(map(len, box_lists)) or not all(map(_is_adaptive, self.level_poolers)):
            return super().forward(x, box_lists)
        rois = convert_boxes_to_pooler_format(box_lists).float()
        sizes = self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        level_of = assign_boxes_to_levels(box_lists, *sizes)
        height, width, scale = (
            torch.tensor(values)[level_of]
            for values in zip(*((*level.shape[2:], p.spatial_scale) for level, p in zip(x, self.level_poolers)))
        )
        starts = torch.tensor([0] + [level[:, 0].numel() for level in x]).cumsum(0)[level_of]
        table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in x]).float()
        boxes = _Boxes(
            rois[:, 1:3] * scale[:, None] - 0.5,
            rois[:, 3:5] * scale[:, None] - 0.5,
            torch.stack([width, height], dim=1),
            starts + rois[:, 0].long() * height * width,
        )
        pooled = _WeightedSums.apply(table, list(_sums(boxes, self.output_size)))
        return pooled.view(len(rois), *self.output_size, -1).permute(0, 3, 1, 2).to(x[0].dtype)


def _is_adaptive(level: nn.Module) -> bool:
    """Whether a pooler has a sampling point for each pixel of a box, as those of Detectron2's configs have."""
    return isinstance(level, ROIAlign) and level.aligned and level.sampling_ratio <= 0


class _Boxes(NamedTuple):
    """B boxes in pixels of their levels: (B, 2) corners and images' sizes as x, y, (B,) the table's row of pixel 0."""

    low: Tensor
    high: Tensor
    extent: Tensor
    start: Tensor

    def of(self, which: Tensor) -> _Boxes:
        return _Boxes(*(values[which] for values in self))


class _Sums(NamedTuple):
    """S sums of K pixels each: (S,) rows of the result, (S, K) rows of the table, and (S, K) weights."""

    places: Tensor
    pixels: Tensor
    weights: Tensor


def _sums(boxes: _Boxes, size: tuple[int, int]) -> Iterator[_Sums]:
    """RoIAlign of each bin of each box, in groups with as many sampling points along the longer side of a bin."""
    bins = size[0] * size[1]
    steps = ((boxes.high - boxes.low) / torch.tensor([size[1], size[0]])).ceil().clamp(min=0)
    # boxes that are as long in the same direction: thin ones would take much memory among those across
    kinds = 2 * steps.amax(dim=1).long() + (steps[:, 0] > steps[:, 1])
    for kind in kinds.unique().tolist():
        which = (kinds == kind).nonzero()[:, 0]
        group, (most_x, most_y) = boxes.of(which), steps[which].amax(dim=0).clamp(min=1).int().tolist()
        columns, across = _along(group, 0, steps[which, 0], size[1], most_x)
        rows, down = _along(group, 1, steps[which, 1], size[0], most_y)
        starts = group.start[:, None, None] + rows * group.extent[:, 0, None, None]
        pixels = starts[:, :, None, :, None] + columns[:, None, :, None, :]
        weights = down[:, :, None, :, None] * across[:, None, :, None, :]
        places = which[:, None] * bins + torch.arange(bins)
        yield _Sums(places.flatten(), pixels.reshape(places.numel(), -1), weights.reshape(places.numel(), -1))


def _along(boxes: _Boxes, axis: int, steps: Tensor, bins: int, points: int) -> tuple[Tensor, Tensor]:
    """Pixels under the sampling points of each bin along an axis, and their shares.

    Sampling points lie at most a pixel apart, so that ``points`` of them are among ``points + 1`` pixels.

    Args:
        boxes: n boxes.
        axis: 0 for x, 1 for y.
        steps: (n,) sampling points in a bin; 0 for a box without a size, whose shares are 0.
        bins: bins along the axis.
        points: the most sampling points.

    Returns:
        (n, bins, points + 1) int64 pixels inside the image, and float32 shares.
    """
    low, high, extent = boxes.low[:, axis], boxes.high[:, axis], boxes.extent[:, axis, None, None]
    number = torch.arange(points)
    bin_size = ((high - low) / bins)[:, None, None]
    within = (number + 0.5) * bin_size / steps.clamp(min=1)[:, None, None]
    point = low[:, None, None] + torch.arange(bins)[:, None] * bin_size + within  # added up as torchvision does
    counted = (number < steps[:, None, None]) & (point >= -1) & (point <= extent)
    point = torch.minimum(point.clamp(min=0), extent - 1)
    pixel = point[:, :, :1].floor() + torch.arange(points + 1)
    near = (1 - (pixel[..., None] - point[:, :, None, :]).abs()).clamp(min=0)
    shares = (near * counted[:, :, None, :]).sum(dim=3) / steps.clamp(min=1)[:, None, None]
    return torch.minimum(pixel, extent - 1).long(), shares


class _WeightedSums(torch.autograd.Function):
    """(R, C) table and sums of its rows -> (S, C)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, sums: list[_Sums]) -> Tensor:
        result = table.new_empty(sum(len(group.places) for group in sums), table.shape[1])
        for group in sums:
            result[group.places] = F.embedding_bag(group.pixels, table, per_sample_weights=group.weights, mode="sum")
        ctx.rows, ctx.sums = len(table), sums
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        pixels = torch.cat([group.pixels.flatten() for group in ctx.sums])
        places = torch.cat([group.places[:, None].expand_as(group.pixels).flatten() for group in ctx.sums])
        weights = torch.cat([group.weights.flatten() for group in ctx.sums])
        size = (ctx.rows, len(gradient))
        with torch.autocast("cpu", enabled=False):
            spread = torch.sparse_coo_tensor(torch.stack([pixels, places]), weights, size, check_invariants=False)
            return torch.sparse.mm(spread, gradient.contiguous()), None
