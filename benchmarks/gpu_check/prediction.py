"""Prediction of real images with the published weights on both sides: the same cells, masks and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from benchmarks.gpu_check.findings import Finding, Settings, Side, compared, full_precision
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import cfg_with_overrides
from cellseg_d2.images.listing import InputImage, list_images
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.weights.checkpoint import WeightsFile

WEIGHTS = "nuclei"
LEAST_SCORE = 0.1
"""Of the cells that are compared; below, one that just reaches the config's least score on one side may not on the
other."""

IOU_LACKING, SCORE_ALLOWED = 0.05, 0.01
"""How much of its IoU a cell may lack, which is one pixel of a small one, and how far scores may be apart."""


def predict(side: Side, images: list[InputImage]) -> list[CellInstances]:
    """The cells of images, with scores from the config's least on."""
    opened = WeightsFile.read(WEIGHTS)
    cfg = cfg_with_overrides(opened.cfg(), ["MODEL.DEVICE", side.device, *side.overrides])
    predictor = WholeImagePredictor.from_cfg(cfg, opened)
    with full_precision():
        return [predictor.predict(image.read(cfg.CELLSEG.INTENSITY_RULE)) for image in images]


def best_partners(cells: CellInstances, others: CellInstances) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each cell that counts, the largest IoU with one of the others, and by how much the scores differ."""
    sure = cells[cells.scores >= LEAST_SCORE]
    if not len(sure) or not len(others):
        return np.zeros(len(sure)), np.ones(len(sure))
    ious = mask_util.iou(sure.rles(), others.rles(), [0] * len(others))
    ious[sure.classes[:, None] != others.classes[None]] = 0
    partner = ious.argmax(axis=1)
    return ious.max(axis=1), np.abs(sure.scores - others.scores[partner]).astype(np.float64)


def compare_cells(expected: list[CellInstances], found: list[CellInstances]) -> Iterator[Finding]:
    """Each cell of one side has its like on the other, both ways."""
    pairs = [best_partners(*pair) for one, two in zip(expected, found) for pair in ((one, two), (two, one))]
    ious, scores = (np.concatenate([pair[place] for pair in pairs]) for place in range(2))
    given = _count(expected), _count(found)
    check = f"{WEIGHTS}: {len(expected)} images"
    if not len(ious):
        yield Finding(check, *given, ended="FAILED: no cell was found, so that nothing was compared")
        return
    yield compared(f"{check}, what the least IoU of masks lacks", given, 1 - float(ious.min()), IOU_LACKING)
    yield compared(f"{check}, scores", given, float(scores.max()), SCORE_ALLOWED)


def _count(images: list[CellInstances]) -> str:
    return f"{sum(np.count_nonzero(cells.scores >= LEAST_SCORE) for cells in images)} cells"


def compare_predictions(settings: Settings, folder: Path) -> Iterator[Finding]:
    """The published weights on the first images of a folder."""
    images = list_images(folder, None)[: settings.images]
    yield from compare_cells(predict(settings.reference, images), predict(settings.device, images))
