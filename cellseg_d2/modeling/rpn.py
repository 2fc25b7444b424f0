"""A region proposal network for hundreds of cells per tile that leaves crowds out of its loss."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou

from cellseg_d2.modeling.losses import loss_weight
from cellseg_d2.structures import CROWD_CLASS

MATCH_BLOCK = {"cpu": 1024, "cuda": 16384}
"""Anchors that are compared with cells at once. Neighbours in the list of anchors are neighbours in the image, so a
small block meets few cells. On a GPU the number of blocks costs more time than their size."""

ON_CROWD = 0.5
"""A box lies on a crowd if at least this share of its area does."""


def lies_on_crowd(crowds: Boxes, boxes: Boxes) -> torch.Tensor:
    """(N,) bool, whether at least half of each box lies in one of the crowds' boxes."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return (pairwise_ioa(crowds, boxes) >= ON_CROWD).any(dim=0)


def match_in_blocks(matcher: Matcher, targets: Boxes, anchors: Boxes) -> tuple[torch.Tensor, torch.Tensor]:
    """``matcher(pairwise_iou(targets, anchors))`` without ever holding the whole matrix.

    With 700 cells and the 65,472 anchors of a 512 px tile, the matrix and its copies take most of a training step's
    memory and much of its time. Here each block of anchors is compared only with the targets that meet the box around
    the block.

    Args:
        matcher: Detectron2's.
        targets: M boxes.
        anchors: N boxes.

    Returns:
        (N,) int64, each anchor's target, and (N,) int8, its label, as the matcher gives them.
    """
    by_threshold = copy.copy(matcher)
    by_threshold.allow_low_quality_matches = False
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    labels = torch.full((len(anchors),), matcher.labels[0], dtype=torch.int8, device=anchors.device)
    best = torch.zeros(len(targets), device=anchors.device)
    candidates = []  # per block: its best anchors for each target, and their IoU
    step = MATCH_BLOCK[anchors.device.type]
    for first in range(0, len(anchors) if len(targets) else 0, step):
        block = anchors[first : first + step]
        near = _meeting(targets, block)
        if not len(near):
            continue
        quality = pairwise_iou(targets[near], block)
        nearest, labels[first : first + step] = by_threshold(quality)
        matches[first : first + step] = torch.where(quality.amax(dim=0) > 0, near[nearest], 0)
        highest = quality.amax(dim=1)
        best[near] = torch.maximum(best[near], highest)
        row, column = torch.nonzero((quality == highest[:, None]) & (quality > 0), as_tuple=True)
        candidates.append((near[row], highest[row], first + column))
    if matcher.allow_low_quality_matches:
        for target, quality, anchor in candidates:
            labels[anchor[quality == best[target]]] = 1
        if (best == 0).any():  # Detectron2's matcher finds all anchors equally good for a target that meets none
            labels[:] = 1
    return matches, labels


def _meeting(targets: Boxes, block: Boxes) -> torch.Tensor:
    """Indices of the targets that meet the box around a block of anchors."""
    low, high = block.tensor[:, :2].amin(dim=0), block.tensor[:, 2:].amax(dim=0)
    meets = (targets.tensor[:, :2] < high) & (targets.tensor[:, 2:] > low)
    return torch.nonzero(meets.all(dim=1))[:, 0]


@PROPOSAL_GENERATOR_REGISTRY.register()
class CellRPN(RPN):
    """Detectron2's RPN with matching in blocks, and without anchors on crowds.

    Crowds are ground truth with ``gt_classes`` of -1. Otherwise the rest of a cell that a tile's edge cuts, which
    conversion marks as crowd, would be trained as background.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        arguments = super().from_config(cfg, input_shape)
        weights = arguments["loss_weight"]  # Detectron2 has a key only for the weight of both losses together
        weights["loss_rpn_cls"] = weights["loss_rpn_cls"] * loss_weight(cfg, "RPN_CLS_WEIGHT")
        return arguments

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Labels and targets of all anchors of each image.

        Args:
            anchors: per feature map.
            gt_instances: per image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            Per image (R,) labels, 1 foreground, 0 background, -1 neither, and (R, 4) matched boxes, which are only
            meaningful where the label is 1.
        """
        every = Boxes.cat(anchors)
        labels, matched_boxes = [], []
        for instances in gt_instances:
            crowd = instances.gt_classes == CROWD_CLASS
            targets = instances.gt_boxes[~crowd]
            matches, kinds = match_in_blocks(self.anchor_matcher, targets, every)
            kinds[lies_on_crowd(instances.gt_boxes[crowd], every) & (kinds == 0)] = -1
            if self.anchor_boundary_thresh >= 0:
                kinds[~every.inside_box(instances.image_size, self.anchor_boundary_thresh)] = -1
            labels.append(self._subsample_labels(kinds))
            matched_boxes.append(targets[matches].tensor if len(targets) else torch.zeros_like(every.tensor))
        return labels, matched_boxes
