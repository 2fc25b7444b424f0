"""SAHI's side of the benchmarks; imported only by the environment of ``make bench-setup``, which has SAHI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import detectron2.engine  # noqa: F401  (SAHI imports it when it loads a model, which would count as the work's memory)
import numpy as np
from numpy.typing import NDArray
from sahi.models.detectron2 import Detectron2DetectionModel
from sahi.postprocess.backends import resolve_backend
from sahi.postprocess.combine import GreedyNMMPostprocess
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

import cellseg_d2.modeling  # noqa: F401  (both register the models that configs name)
from benchmarks.scenes import views
from cellseg_d2.cells.instances import CellInstances

resolve_backend()  # imports what it needs to choose, which would count as the first merging's time
DEFAULTS = {"match_threshold": 0.5, "match_metric": "IOS", "class_agnostic": False}
"""What ``get_sliced_prediction`` merges with where nothing else is asked for."""


def merge(cells: CellInstances, tile_size: int, overlap: float) -> dict[str, Any]:
    """Merges what an unerring detector sees in each tile.

    Returns:
        ``seconds`` of the merging alone, ``predictions`` of all tiles, and the ``cells`` of the result.
    """
    height, width = cells.image_size
    windows = get_slice_bboxes(height, width, tile_size, tile_size, False, overlap, overlap)
    predictions = [
        prediction.get_shifted_object_prediction()
        for view in views(cells, [tuple(window) for window in windows])
        for prediction in _predictions(view)
    ]
    given = len(predictions)
    started = time.perf_counter()
    merged = GreedyNMMPostprocess(**DEFAULTS)(predictions)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "predictions": given, "cells": to_cells(merged, cells.image_size)}


def _predictions(cells: CellInstances) -> list[ObjectPrediction]:
    """As SAHI's Detectron2 model makes them: what has no contour of three points is left out."""
    result = []
    for mask, origin, score, number in zip(cells.masks, cells.origins, cells.scores, cells.classes):
        if outline := get_coco_segmentation_from_bool_mask(mask):
            result.append(
                ObjectPrediction(
                    segmentation=outline,
                    category_id=int(number),
                    category_name=str(number),
                    score=float(score),
                    shift_amount=origin.tolist(),
                    full_shape=list(cells.image_size),
                )
            )
    return result


def predict(
    image: Path, config: Path, weights: str, threshold: float, tile_size: int, overlap: float, device: str
) -> dict[str, Any]:
    """Predicts an image with ``get_sliced_prediction`` and a Detectron2 model, as its documentation shows.

    Without its pass over the whole image, in which Detectron2 pastes cells x image.

    Args:
        image: .npy, RGB.
        config: a Detectron2 config.
        weights: a checkpoint; none where empty.
        threshold: the least score.
        tile_size: the slices' side length in pixels.
        overlap: share of the tile size that neighbouring slices have in common.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``seconds`` without those of a stand-in, those that ``merging`` took, and the ``cells``.
    """
    model = Detectron2DetectionModel(
        config_path=str(config), model_path=weights, device=device, confidence_threshold=threshold
    )
    pixels = np.load(image)
    if model.model.input_format == "RGB":
        # SAHI hands RGB to Detectron2's predictor, which takes it for BGR: a model of RGB images would see red as blue.
        pixels = np.ascontiguousarray(pixels[..., ::-1])

    def run(part: NDArray[np.uint8]) -> Any:
        return get_sliced_prediction(
            part,
            model,
            slice_height=tile_size,
            slice_width=tile_size,
            overlap_height_ratio=overlap,
            overlap_width_ratio=overlap,
            perform_standard_pred=False,
            verbose=0,
        )

    run(pixels[:tile_size, :tile_size])  # warms up
    network = model.model.model
    before = getattr(network, "standing_in", 0.0)
    started = time.perf_counter()
    result = run(pixels)
    seconds = time.perf_counter() - started - (getattr(network, "standing_in", 0.0) - before)
    cells = to_cells(result.object_prediction_list, pixels.shape[:2])
    return {"seconds": seconds, "merging": result.durations_in_seconds["postprocess"], "cells": cells}


def to_cells(predictions: list[ObjectPrediction], size: tuple[int, int]) -> CellInstances:
    """SAHI's polygons filled as its own ``bool_mask`` fills them, each in its own box."""
    masks, origins = [], []
    for prediction in predictions:
        outlines = [np.array(points).reshape(-1, 2).round().astype(int) for points in prediction.mask.segmentation]
        low, high = np.concatenate(outlines).min(axis=0), np.concatenate(outlines).max(axis=0)
        canvas = np.zeros((high - low + 1)[::-1], np.uint8)
        cv2.fillPoly(canvas, [outline - low for outline in outlines], (1,))
        masks.append(canvas.astype(bool))
        origins.append(low)
    return CellInstances(
        size,
        np.array([prediction.bbox.to_xyxy() for prediction in predictions], np.float32).reshape(-1, 4),
        np.array([prediction.score.value for prediction in predictions], np.float32),
        np.array([prediction.category.id for prediction in predictions], np.int64),
        masks,
        np.array(origins, np.int64).reshape(-1, 2),
    )
