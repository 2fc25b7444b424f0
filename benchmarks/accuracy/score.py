"""Scores the label maps of any side with the same code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model_card import MAX_DETECTIONS, TRUTH_FILE, one_class, only
from cellseg_d2.cells.coco import Result, to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import column_runs
from cellseg_d2.cells.selection import Selection
from cellseg_d2.evaluation.judgement import judge_cells
from cellseg_d2.files import read_json
from cellseg_d2.images.listing import find_test_images


def score(root: Path, folder: Path) -> Mapping[str, float]:
    """The metrics of cells, in percent, of all cells of the label maps.

    Args:
        root: the input layout, with the ground truth of the test images.
        folder: ``NAME.npz`` per predicted image, see :func:`benchmarks.accuracy.job.predict`.

    Raises:
        CellSegError: an image is not in the ground truth, or a file cannot be read.
    """
    ids = {test.name: test.id for test in find_test_images(root)}
    paths = sorted(folder.glob("*.npz"))
    results = [result for path in paths for result in results_of(path, ids[path.stem])]
    truth: dict[str, Any] = only(one_class(read_json(root / TRUTH_FILE)), {ids[path.stem] for path in paths})
    return judge_cells(truth, results, MAX_DETECTIONS, Selection(["cell"], 0.0)).metrics.summary


def results_of(path: Path, image_id: int) -> list[Result]:
    """The cells of a label map as COCO results."""
    with np.load(path) as arrays:
        labels, scores = arrays["labels"], arrays["scores"]
    numbers, runs = column_runs(labels)
    return to_results(CellInstances.from_runs(runs, np.zeros(len(numbers), np.int64), scores[numbers - 1]), image_id)
