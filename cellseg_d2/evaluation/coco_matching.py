"""COCO's matching of cells and predictions at an IoU of 0.5, and the precision by recall that follows from it.

The best prediction comes first and takes the free cell of its class with the largest IoU. Nothing is flattened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.evaluation.overlap_table import Cells, Pairs, whole_overlaps

MATCHED = 0.5
"""The least IoU of a match."""

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision."""


@dataclass(frozen=True)
class CocoMatches:
    """What COCO's matching says of one image's cells and predictions.

    Attributes:
        pairs: M pairs of a cell, or crowd, and a prediction of any class that have pixels in common.
        iou: (M,) float64, the IoU of each pair; for a crowd, the share of the prediction that lies on it, as in COCO.
        partner: (P,) int64, the cell of each prediction, or -1.
        absorbed: (P,) bool, predictions without a cell that lie on a crowd of their class by half or more.
    """

    pairs: Pairs
    iou: Floats
    partner: Ints
    absorbed: Bools


def match_as_coco(truth: Cells, found: Cells) -> CocoMatches:
    """Matches the predictions of one image, which come best first, to its cells."""
    pairs = whole_overlaps(truth, found)
    crowd, same = truth.crowd[pairs.truth], truth.classes[pairs.truth] == found.classes[pairs.prediction]
    areas = found.areas[pairs.prediction]
    union = np.where(crowd, areas, areas + truth.areas[pairs.truth] - pairs.shared)  # COCO's rule for crowds
    iou = pairs.shared / union
    partner = _partners(pairs.truth, pairs.prediction, iou, same & ~crowd, len(truth), len(found))
    absorbed = np.zeros(len(found), bool)
    absorbed[pairs.prediction[crowd & same & (iou >= MATCHED)]] = True
    return CocoMatches(pairs, iou, partner, absorbed & (partner < 0))


def _partners(truth: Ints, prediction: Ints, iou: Floats, may: Bools, cells: int, predictions: int) -> Ints:
    """(P,) the cell of each prediction or -1: the best first, each takes the free cell of its largest IoU."""
    partner = np.full(predictions, -1)
    taken = np.zeros(cells, bool)
    pairs = np.flatnonzero(may & (iou >= MATCHED))
    for pair in pairs[np.lexsort((-truth[pairs], -iou[pairs], prediction[pairs]))].tolist():  # COCO: the last of equals
        if partner[prediction[pair]] < 0 and not taken[truth[pair]]:
            partner[prediction[pair]] = truth[pair]
            taken[truth[pair]] = True
    return partner


def unmatched(truth: Cells, predictions: Cells) -> tuple[Ints, Ints]:
    """What the matching leaves over: cells that were missed, and predictions of no cell.

    A crowd is never missed, and a prediction that a crowd absorbs is not spurious. One that doubles another, or has the
    wrong class or a poor outline, is.

    Args:
        truth: an image's ground truth.
        predictions: predictions for the same image, in any order.

    Returns:
        Numbers of the missed cells of ``truth`` and of the spurious ones of ``predictions``, both ascending int64.
    """
    ranking = predictions.ranking()
    matches = match_as_coco(truth, predictions.pick(ranking))
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), matches.partner)
    return missed, np.sort(ranking[(matches.partner < 0) & ~matches.absorbed])


def within_cap(predictions: Cells, max_detections: int) -> Ints:
    """Numbers of the best predictions per class, at most ``max_detections`` per class; all of them best first."""
    ranking = predictions.ranking()
    return ranking[_place_in_class(predictions.classes[ranking]) < max_detections]


def _place_in_class(classes: Ints) -> Ints:
    """How many before each are of the same class."""
    order = np.argsort(classes, kind="stable")
    place = np.empty(len(classes), np.int64)
    place[order] = np.arange(len(classes)) - np.searchsorted(classes[order], classes[order])
    return place


def ap50(classes: Ints, scores: Floats, hits: Bools, cells: Ints) -> float:
    """COCO's AP at an IoU of 0.5 in percent, averaged over the classes that have cells; NaN where none has any.

    Args:
        classes: (D,) int64, classes of the detections, images in order.
        scores: (D,) float64; of equal ones the earlier comes first.
        hits: (D,) bool, whether a detection has a cell.
        cells: (K,) int64, cells per class.
    """
    values = []
    for number in np.flatnonzero(cells).tolist():
        chosen = classes == number
        values.append(precisions(scores[chosen], hits[chosen], int(cells[number])).mean())
    return float(100 * np.mean(values)) if values else float("nan")


def precisions(scores: Floats, hits: Bools, cells: int) -> Floats:
    """(101,) in 0 .. 1: COCO's precision of one class at each of :data:`RECALLS`, the best at this recall or above.

    Args:
        scores: (D,) float64, scores of the class's detections, images in order.
        hits: (D,) bool, whether a detection has a cell.
        cells: number of cells in the class, at least 1.
    """
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(right / cells, RECALLS)]
