"""From a model's cells to a label map, and the least score of the best F1; for the sides that give masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.job import Find, LabelledImage
from cellseg_d2.cells.coco import annotate, dataset, to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.selection import Selection
from cellseg_d2.evaluation.thresholds import UNKNOWN, least_scores

FindCells = Callable[[NDArray[np.uint8]], CellInstances]
"""From (H, W, 3) uint8 RGB to all cells of one class, with any score."""

MAX_DETECTIONS = 1000
"""Of an image, for the choice of the least score."""

CLASS_NAMES = ("cell",)

PLAIN = UNKNOWN
"""The least score where none was chosen."""


def label_map_finder(find_cells: FindCells, least: float) -> Find:
    """Paints the cells from a score on that no better one hides, the best on top."""
    selection = Selection(CLASS_NAMES, least)

    def find(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.floating[Any]]]:
        cells = selection.of(find_cells(pixels))
        return cells.label_image(), cells.scores

    return find


def best_least_score(find_cells: FindCells, images: Sequence[LabelledImage]) -> float:
    """The least score with the best F1 at an IoU of 0.5 on labelled images."""
    records, cells, results = [], [], []
    for number, image in enumerate(images, start=1):
        height, width = image.labels.shape
        records.append({"id": number, "file_name": image.name, "height": height, "width": width})
        cells.append(annotate([LabelMap((1,), image.labels)], (0, 0, width, height)))
        results += to_results(find_cells(image.pixels).trimmed(), number)
    (least,) = least_scores(dataset(records, cells, CLASS_NAMES), results, MAX_DETECTIONS, Selection(CLASS_NAMES))
    return least
