"""Turns mask probabilities inside boxes into pixels, each mask inside its box only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch.nn import functional as F

from cellseg_d2.cells.instances import CellInstances

PASTE_BLOCK_PIXELS = 2**22
"""Mask samples that are computed at once: few enough to bound memory, enough to handle small masks in few calls."""


def to_cell_instances(instances: Instances, threshold: float) -> CellInstances:
    """Cells from Detectron2's raw predictions for one image, with (N, 1, M, M) mask probabilities.

    Cells whose masks have no pixel of at least ``threshold`` are left out.
    """
    height, width = instances.image_size
    boxes = instances.pred_boxes.tensor.float()
    masks, origins = paste_in_boxes(instances.pred_masks[:, 0].float(), boxes, (height, width), threshold)
    return CellInstances(
        (height, width),
        boxes.cpu().numpy(),
        instances.scores.float().cpu().numpy(),
        instances.pred_classes.cpu().numpy().astype(np.int64),
        masks,
        origins,
    ).trimmed()


def paste_in_boxes(
    probabilities: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> tuple[list[NDArray[np.bool_]], NDArray[np.int64]]:
    """Resamples mask probabilities to pixels, each mask inside its box only.

    The values are those of Detectron2's ``paste_masks_in_image`` (layers/mask_ops.py: bilinear, at pixel centres), but
    without an array of cells x image.

    Args:
        probabilities: (N, M, M) float in [0, 1].
        boxes: (N, 4) float, (x0, y0, x1, y1) in pixels.
        image_size: (height, width); boxes are clipped to it.
        threshold: pixels with at least this probability belong to the mask.

    Returns:
        N bool arrays (h, w), and (N, 2) int64, the (x, y) of their first pixels.
    """
    height, width = image_size
    limits = boxes.new_tensor([width, height])
    # one pixel more on each side, because bilinear samples fade out just outside the box
    low = torch.minimum((boxes[:, :2].floor() - 1).clamp(min=0), limits)
    high = torch.minimum(boxes[:, 2:].ceil() + 1, limits)
    sizes = (high - low).clamp(min=0).long()
    masks: list[NDArray[np.bool_]] = [np.zeros((0, 0), bool)] * len(boxes)
    for block in _blocks_of_similar_size(sizes.cpu().numpy()):
        chosen = torch.from_numpy(block).to(boxes.device)
        columns, rows = (int(side) for side in sizes[chosen].amax(dim=0))
        box, corner = boxes[chosen], low[chosen]
        extent = (box[:, 2:] - box[:, :2]).clamp(min=1e-6)
        x = torch.arange(columns, device=boxes.device) + corner[:, :1] + 0.5
        y = torch.arange(rows, device=boxes.device) + corner[:, 1:] + 0.5
        x = (x - box[:, :1]) / extent[:, :1] * 2 - 1
        y = (y - box[:, 1:2]) / extent[:, 1:] * 2 - 1
        points = torch.stack([x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=3)
        sampled = F.grid_sample(probabilities[chosen, None], points, align_corners=False)[:, 0] >= threshold
        for number, mask, (w, h) in zip(block, sampled.cpu().numpy(), sizes[chosen].tolist()):
            masks[number] = mask[:h, :w]
    return masks, low.long().cpu().numpy()


def _blocks_of_similar_size(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Groups the indices of (N, 2) sizes in blocks of similar sizes, so that padding wastes few pixels."""
    nonempty = np.flatnonzero(sizes.min(axis=1) > 0)
    order = nonempty[np.argsort(sizes[nonempty].max(axis=1), kind="stable")]
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * int(sizes[order[last]].max()) ** 2 <= PASTE_BLOCK_PIXELS:
            last += 1
        yield order[first:last]
        first = last
