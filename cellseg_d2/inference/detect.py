"""Detections of the network in crops of an image, from one view of each crop or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import nn

from cellseg_d2.data.mapper import to_model_input
from cellseg_d2.inference.prepare import precision
from cellseg_d2.inference.views import View, fuse, views_of
from cellseg_d2.modeling.roi_heads import CellROIHeads

AP_SCORE = 0.05
"""The least score of a view's detections that count in the average over views, whatever the final threshold is."""


class Detector:
    """Runs the network on crops of images; masks are not pasted.

    Args:
        model: a Detectron2 ``GeneralizedRCNN``; it needs box and mask heads if CELLSEG.INFERENCE.TTA.ENABLED.
        cfg: its config; INPUT.FORMAT, MODEL.ROI_HEADS, TEST and CELLSEG.INFERENCE.TTA are used.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode) -> None:
        self.model = model
        self.cfg = cfg
        options = cfg.CELLSEG.INFERENCE.TTA
        self.views = views_of(options.FLIPS, options.QUARTER_TURNS, options.SCALES) if options.ENABLED else []

    def __call__(self, crops: Sequence[NDArray[np.uint8]], scale: float = 1.0) -> list[Instances]:
        """Detections in several crops of the same size.

        Args:
            crops: (H, W, 3) uint8 RGB, or of the model's channels.
            scale: the factor by which crops are enlarged for the network.

        Returns:
            For each crop: ``pred_boxes`` in pixels of the crop, ``scores``, ``pred_classes`` and ``pred_masks``,
            (N, 1, M, M) probabilities inside the boxes.
        """
        if self.cfg.MODEL.DEVICE == "cpu" and len(crops) > 1:  # one crop's features stay in the caches, four do not
            return [found for crop in crops for found in self([crop], scale)]
        with torch.inference_mode(), precision(self.cfg):
            if self.views:
                return self._in_views(crops, scale)
            found = self.model.inference(self._inputs(crops, View(scale=scale)), do_postprocess=False)
            return [_as_crop(instances, crop, scale) for instances, crop in zip(found, crops)]

    def _inputs(self, crops: Sequence[NDArray[np.uint8]], view: View) -> list[dict[str, Any]]:
        images = [to_model_input(view.image(crop), self.cfg.INPUT.FORMAT) for crop in crops]
        return [{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in images]

    def _in_views(self, crops: Sequence[NDArray[np.uint8]], scale: float) -> list[Instances]:
        """Joins the boxes of all views, and averages the masks that each view gives inside the joined boxes."""
        views = [View(view.quarter_turns, view.flip, view.scale * scale) for view in self.views]
        sizes = [crop.shape[:2] for crop in crops]
        heads, features, boxes_seen = self.model.roi_heads, [], [[] for _ in crops]
        with _scores_from(heads, AP_SCORE):
            for view in views:
                images = self.model.preprocess_image(self._inputs(crops, view))
                features.append(self.model.backbone(images.tensor))
                proposals, _ = self.model.proposal_generator(images, features[-1], None)
                for number, found in enumerate(heads._forward_box(features[-1], proposals)):
                    found.pred_boxes = Boxes(view.boxes_back(found.pred_boxes.tensor, sizes[number]))
                    boxes_seen[number].append(found)
        options = self.cfg.MODEL.ROI_HEADS
        fused = [
            fuse(found, size, options.NMS_THRESH_TEST, options.SCORE_THRESH_TEST, self.cfg.TEST.DETECTIONS_PER_IMAGE)
            for found, size in zip(boxes_seen, sizes)
        ]
        total: list[torch.Tensor | None] = [None] * len(crops)
        for view, of_view in zip(views, features):
            asked = [_asked(instances, view, size) for instances, size in zip(fused, sizes)]
            for number, instances in enumerate(heads.forward_with_given_boxes(of_view, asked)):
                masks = view.masks_back(instances.pred_masks)
                total[number] = masks if total[number] is None else total[number] + masks
        for instances, masks in zip(fused, total):
            instances.pred_masks = masks / len(views)
        return heads.classified(fused) if isinstance(heads, CellROIHeads) else fused


def _as_crop(instances: Instances, crop: NDArray[np.uint8], scale: float) -> Instances:
    """Detections in pixels of the crop."""
    result = Instances(crop.shape[:2], **instances.get_fields())
    boxes = View(scale=scale).boxes_back(instances.pred_boxes.tensor, result.image_size)
    result.pred_boxes = Boxes(boxes)
    return result


def _asked(instances: Instances, view: View, size: tuple[int, int]) -> Instances:
    """The joined boxes in the coordinates of a view."""
    return Instances(
        view.size(size),
        pred_boxes=Boxes(view.boxes(instances.pred_boxes.tensor, size)),
        pred_classes=instances.pred_classes,
        scores=instances.scores,
    )


@contextmanager
def _scores_from(heads: nn.Module, threshold: float) -> Iterator[None]:
    """A context in which the box heads keep detections from a lower score on."""
    heads_of_boxes = heads.box_predictor if isinstance(heads.box_predictor, nn.ModuleList) else [heads.box_predictor]
    before = [predictor.test_score_thresh for predictor in heads_of_boxes]
    for predictor, usual in zip(heads_of_boxes, before):
        predictor.test_score_thresh = min(usual, threshold)
    try:
        yield
    finally:
        for predictor, usual in zip(heads_of_boxes, before):
            predictor.test_score_thresh = usual
