"""Test-time augmentation: several views of an image, and the fusion of the boxes found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from numpy.typing import NDArray

from cellseg_d2.images.resize import resized


@dataclass(frozen=True)
class View:
    """An image enlarged by ``scale``, then turned counter-clockwise ``quarter_turns`` times, then mirrored if ``flip``.

    Boxes are (N, 4) float, (x0, y0, x1, y1); sizes are (height, width) of the original image.
    """

    quarter_turns: int = 0
    flip: bool = False
    scale: float = 1.0

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view of an (H, W, C) image."""
        if self.scale != 1:
            way = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
            image = resized(image, self._scaled((image.shape[0], image.shape[1])), way)
        turned = np.rot90(image, self.quarter_turns)
        return turned[:, ::-1] if self.flip else turned

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the view."""
        height, width = self._scaled(size)
        return (width, height) if self.quarter_turns % 2 else (height, width)

    def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        return max(round(size[0] * self.scale), 1), max(round(size[1] * self.scale), 1)

    def boxes(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Boxes of the image in the coordinates of the view."""
        height, width = self._scaled(size)
        boxes = boxes * boxes.new_tensor([width / size[1], height / size[0]] * 2)
        for _ in range(self.quarter_turns % 4):
            x0, y0, x1, y1 = boxes.unbind(1)
            boxes = torch.stack([y0, width - x1, y1, width - x0], dim=1)
            height, width = width, height
        return _mirrored(boxes, width) if self.flip else boxes

    def boxes_back(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The inverse of :meth:`boxes`."""
        height, width = self.size(size)
        boxes = _mirrored(boxes, width) if self.flip else boxes
        for _ in range(self.quarter_turns % 4):
            x0, y0, x1, y1 = boxes.unbind(1)
            boxes = torch.stack([height - y1, x0, height - y0, x1], dim=1)
            height, width = width, height
        return boxes * boxes.new_tensor([size[1] / width, size[0] / height] * 2)

    def masks_back(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks inside boxes of the view, (N, 1, M, M), turned to lie inside the boxes of the image."""
        masks = masks.flip(3) if self.flip else masks
        return torch.rot90(masks, -self.quarter_turns, (2, 3))


def _mirrored(boxes: torch.Tensor, width: int) -> torch.Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def views_of(flips: bool, quarter_turns: bool, scales: Sequence[float]) -> list[View]:
    """All views that CELLSEG.INFERENCE.TTA sets, including the unchanged image if 1 is among the scales."""
    ways = {(0, False)}
    if flips:
        ways |= {(0, True), (2, True)}
    if quarter_turns:
        ways |= {(turns, False) for turns in range(4)}
    if flips and quarter_turns:
        ways |= {(turns, True) for turns in range(4)}
    return [View(turns, flip, float(scale)) for scale in scales for turns, flip in sorted(ways)]


def fuse(
    found: Sequence[Instances], size: tuple[int, int], iou: float, score_threshold: float, limit: int
) -> Instances:
    """Joins the boxes of all views: boxes of one class that overlap the best one become one box with it.

    The corners are the mean of the boxes, weighted by score. The score is the mean over the views of the best score in
    each, 0 where a view has none (Solovyev et al., Weighted boxes fusion, 2021, with the boxes of non-maximum
    suppression as clusters). So a box that all views show keeps its score, and a box of one view loses most of it.

    Args:
        found: per view ``pred_boxes`` in the image's pixels, ``scores`` and ``pred_classes``; perhaps ``class_logits``,
            which are averaged as the corners are.
        size: (height, width) of the image.
        iou: boxes with a larger IoU than this show one cell.
        score_threshold: the least score to keep.
        limit: the most boxes to keep, the best first; negative for no limit.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, by falling score.
    """
    boxes = torch.cat([instances.pred_boxes.tensor for instances in found])
    scores = torch.cat([instances.scores for instances in found])
    classes = torch.cat([instances.pred_classes for instances in found])
    view = torch.cat([torch.full_like(instances.pred_classes, place) for place, instances in enumerate(found)])
    best = batched_nms(boxes, scores, classes, iou)
    fused = Instances(size)
    logits = torch.cat([instances.class_logits for instances in found]) if found[0].has("class_logits") else None
    if not len(best):
        fused.pred_boxes, fused.scores, fused.pred_classes = Boxes(boxes), scores, classes
        if logits is not None:
            fused.class_logits = logits
        return fused
    overlap = pairwise_iou(Boxes(boxes), Boxes(boxes[best])) * (classes[:, None] == classes[best])
    value, cluster = overlap.max(dim=1)
    joins = (value > iou).float()  # a best box joins itself, unless it has no area
    weights = scores * joins
    sums = boxes.new_zeros(len(best), 4).index_add_(0, cluster, boxes * weights[:, None])
    total = boxes.new_zeros(len(best)).index_add_(0, cluster, weights)
    by_view = scores.new_zeros(len(best) * len(found))
    by_view.scatter_reduce_(0, cluster * len(found) + view, weights, "amax")
    mean = by_view.view(len(best), len(found)).mean(dim=1)
    order = torch.argsort(mean, descending=True, stable=True)
    order = order[(mean[order] >= score_threshold) & (total[order] > 0)]
    order = order[:limit] if limit >= 0 else order
    fused.pred_boxes = Boxes(sums[order] / total[order, None])
    fused.scores, fused.pred_classes = mean[order], classes[best][order]
    if logits is not None:
        logit_sums = logits.new_zeros(len(best), logits.shape[1]).index_add_(0, cluster, logits * weights[:, None])
        fused.class_logits = logit_sums[order] / total[order, None]
    return fused
