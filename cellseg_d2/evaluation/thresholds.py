"""Precision, recall and F1 by score: the curve of each class, its best threshold, and the file of the thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.cells.arrays import Bools, Floats
from cellseg_d2.cells.selection import DEFAULT_SCORE, Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_cells import class_names, image_cells
from cellseg_d2.evaluation.coco_matching import MATCHED, precisions
from cellseg_d2.evaluation.error_breakdown import Judged, judge
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.files import read_json, write_json

UNKNOWN = DEFAULT_SCORE
"""The least score of a class whose best threshold is not known."""

ENOUGH_CELLS = 10
"""Of a class, for its threshold to be more than chance."""


@dataclass(frozen=True)
class Threshold:
    """Detections of at least this score give the class its best F1.

    Attributes:
        score: half way between the worst detection that is kept and the best that is not, since files round scores.
        f1, precision, recall: in percent, from COCO's matching at an IoU of 0.5.
        cells: number of cells in the class.
    """

    score: float
    f1: float
    precision: float
    recall: float
    cells: int


def precision_curves(judged: Judged, class_names: Sequence[str]) -> dict[str, Floats]:
    """COCO's precision by recall at an IoU of 0.5, for each class that has cells.

    Of the same detections the best F1 of :func:`best_thresholds` lies on the curve, but between two of its points and
    where scores are equal; where those that better ones hide are left out, beside it.

    Returns:
        By class name, (101,) in 0 .. 1 at :data:`cellseg_d2.evaluation.coco_matching.RECALLS`; the mean is AP50.
    """
    curves = {}
    for number, name in enumerate(class_names):
        scores, hits, cells = judged.of_class(number)
        if cells:
            curves[name] = precisions(scores, hits, cells)
    return curves


def judge_unhidden(truth: Cells, predictions: Cells, max_detections: int, selection: Selection) -> Judged:
    """Judges the predictions that people would see if no score were too low.

    What better ones hide is left out, as ``predict`` leaves it out at any threshold. With it the best threshold would
    be too high, since second guesses have low scores.

    Args:
        truth: an image's ground truth.
        predictions: predictions for the same image.
        max_detections: detections judged per class, the best first.
        selection: how hidden ones are found; its least scores do not count.
    """
    every = replace(selection, min_score=0.0, min_score_of_class={})
    return judge(truth, predictions.selected(every), max_detections)


def best_thresholds(judged: Judged, class_names: Sequence[str]) -> dict[str, Threshold]:
    """The best threshold per class; a class of which no cell was found has none.

    A threshold does not change which cells the detections above it match, so one matching serves for all. Of equal F1
    the highest threshold is taken. For predictions that people see, take what :func:`judge_unhidden` gives.
    """
    best = {}
    for number, name in enumerate(class_names):
        scores, hits, cells = judged.of_class(number)
        if hits.any():
            best[name] = _best(scores, hits, cells)
    return best


def _best(scores: Floats, hits: Bools, cells: int) -> Threshold:
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores all are kept, or none
    right, kept = np.cumsum(hits[order])[last], last + 1
    f1 = 2 * right / (kept + cells)
    place = int(np.argmax(f1))
    lowest = float(scores[last[place]])
    below = float(scores[kept[place]]) if kept[place] < len(scores) else lowest
    return Threshold(
        (lowest + below) / 2,
        float(100 * f1[place]),
        float(100 * right[place] / kept[place]),
        float(100 * right[place] / cells),
        cells,
    )


def least_scores(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int, selection: Selection
) -> list[float]:
    """The threshold of each class of a COCO dataset, by ascending category ids.

    A class of which fewer than :data:`ENOUGH_CELLS` are there, or none was found, has :data:`UNKNOWN`.

    Args:
        truth: a COCO dataset.
        results: COCO results with segmentations.
        max_detections: judged per image and class, the best first.
        selection: see :func:`judge_unhidden`.

    Raises:
        CellSegError: see :func:`cellseg_d2.evaluation.coco_cells.image_cells`.
    """
    images = image_cells(truth, results)
    judged = [judge_unhidden(image.truth, image.predictions, max_detections, selection) for image in images]
    names = class_names(truth)
    best = best_thresholds(Judged.concatenate(judged), names) if judged else {}
    known = {name: found.score for name, found in best.items() if found.cells >= ENOUGH_CELLS}
    return [known.get(name, UNKNOWN) for name in names]


def write_thresholds(path: Path, best: Mapping[str, Threshold], ground_truth: Path, predictions: Path) -> None:
    """Writes thresholds as JSON, with what they were computed from: names of files without their folders."""
    content = {
        "thresholds": {name: threshold.score for name, threshold in best.items()},
        "computed_from": {
            "ground_truth": ground_truth.name,
            "predictions": predictions.name,
            "iou": MATCHED,
            "classes": {
                name: {"F1": t.f1, "precision": t.precision, "recall": t.recall, "cells": t.cells}
                for name, t in best.items()
            },
        },
    }
    write_json(path, content, indent=1)


def read_thresholds(path: Path, class_names: Sequence[str]) -> dict[str, float]:
    """Score thresholds by class name: a detection is kept if its score is at least that of its class.

    Args:
        path: a file of :func:`write_thresholds`, or one written by hand: ``{"thresholds": {"class": 0.4}}``.
        class_names: the model's classes. The file need not name all of them.

    Raises:
        CellSegError: the file cannot be read or is of another form, has a number outside 0 .. 1, or names a class that
            the model does not have.
    """
    content = read_json(path)
    thresholds = content.get("thresholds") if isinstance(content, dict) else None
    if not isinstance(thresholds, dict):
        raise CellSegError(f'{path}: holds no thresholds; expected {{"thresholds": {{"class name": 0.5}}}}')
    for name, score in thresholds.items():
        if name not in class_names:
            raise CellSegError(f"{path}: has a threshold for {name}; the classes are {', '.join(class_names)}")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise CellSegError(f"{path}: the threshold of {name} is {score}; write a number in 0 .. 1")
    return {name: float(score) for name, score in thresholds.items()}
