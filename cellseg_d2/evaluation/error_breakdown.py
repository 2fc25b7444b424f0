"""What kinds of errors a result has, and the AP50 that each of them costs; needs neither torch nor Detectron2.

The idea is TIDE's (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020): every
detection that COCO takes for false is of one kind, and a kind costs what AP50 gains if the errors of that kind alone
are fixed. Nothing is flattened here. The kinds, the first that fits:

- doubled: it has an IoU of at least 0.5 with a cell of its class, which a better detection has. Fixed: left out.
- wrong class: it has an IoU of at least 0.5 with a cell of another class. Fixed: it gets that class and is right.
- poor outline: it has an IoU of at least 0.1 with a cell of its class. Fixed: it gets that outline and is right.
- spurious: anything else, also what is wrong in class and outline. Fixed: left out.
- missed: a cell that no detection has, nor would have if classes and outlines were fixed. Fixed: it is not counted.

Where a cell is already found, or several detections would get it, only the best is right and the others are left out.
TIDE tells apart what here is spurious, and tests for a poor outline first, by which a cell of the wrong class that
touches one of the right class has a poor outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellseg_d2.evaluation.overlap_table import Bools, Cells, Floats, Ints, Pairs, whole_overlaps

HIT, DOUBLED, WRONG_CLASS, POOR_OUTLINE, SPURIOUS = range(5)
KINDS = {
    "missed": -1,
    "spurious": SPURIOUS,
    "wrong class": WRONG_CLASS,
    "poor outline": POOR_OUTLINE,
    "doubled": DOUBLED,
}

MATCHED, NEAR = 0.5, 0.1
"""IoU of a match, and of a detection that is of the cell though its outline is poor; both as in TIDE."""

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision."""


@dataclass(frozen=True)
class Judged:
    """Detections of one or many images and what COCO's matching at an IoU of 0.5 says of them.

    Those that crowds absorb are left out, as are those above the cap of an image and class.

    Attributes:
        classes, scores: (D,) int64 and float64.
        kinds: (D,) int64, HIT or one of the kinds of error.
        targets: (D,) int64, the cell that a detection has or was meant for; -1 for spurious ones.
        truth_classes: (T,) int64, of the cells, without crowds.
    """

    classes: Ints
    scores: Floats
    kinds: Ints
    targets: Ints
    truth_classes: Ints

    @classmethod
    def concatenate(cls, parts: Sequence[Judged]) -> Judged:
        """Those of many images as of one."""
        offsets = np.cumsum([0, *(len(part.truth_classes) for part in parts)])
        targets = [np.where(part.targets < 0, -1, part.targets + start) for part, start in zip(parts, offsets)]
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.kinds for part in parts]),
            np.concatenate(targets),
            np.concatenate([part.truth_classes for part in parts]),
        )


@dataclass(frozen=True)
class CocoMatches:
    """COCO's matching of one image's cells and predictions at an IoU of 0.5, class by class.

    Attributes:
        pairs: M pairs of a cell, or crowd, and a prediction of any class that have pixels in common.
        iou: (M,) float64, of these; of a crowd, the share of the prediction that lies on it, as COCO has it.
        partner: (P,) int64, the cell of each prediction or -1.
        absorbed: (P,) bool, predictions that crowds of their class take in where they have no cell.
    """

    pairs: Pairs
    iou: Floats
    partner: Ints
    absorbed: Bools


def match_as_coco(truth: Cells, found: Cells) -> CocoMatches:
    """Matches the predictions of one image, which come the best first, to its cells."""
    pairs = whole_overlaps(truth, found)
    crowd, same = truth.crowd[pairs.truth], truth.classes[pairs.truth] == found.classes[pairs.prediction]
    areas = found.areas[pairs.prediction]
    union = np.where(crowd, areas, areas + truth.areas[pairs.truth] - pairs.shared)  # COCO's rule for crowds
    iou = pairs.shared / union
    partner = _coco_matches(pairs.truth, pairs.prediction, iou, same & ~crowd, len(truth), len(found))
    absorbed = np.zeros(len(found), bool)
    absorbed[pairs.prediction[crowd & same & (iou >= MATCHED)]] = True
    return CocoMatches(pairs, iou, partner, absorbed & (partner < 0))


def judge(truth: Cells, predictions: Cells, max_detections: int) -> Judged:
    """Matches the detections of one image as COCO does, and finds out what is wrong with those that match nothing.

    Args:
        truth: the image's ground truth.
        predictions: predictions for the same image, in any order.
        max_detections: judged per class, the best first.
    """
    found = predictions.pick(within_cap(predictions, max_detections))
    matches = match_as_coco(truth, found)
    pairs, iou, partner, kept = matches.pairs, matches.iou, matches.partner, ~matches.absorbed
    crowd, same = truth.crowd[pairs.truth], truth.classes[pairs.truth] == found.classes[pairs.prediction]

    kinds, targets = np.full(len(found), SPURIOUS), np.full(len(found), -1)
    order = np.argsort(iou, kind="stable")  # of several cells, the one of the largest IoU is written last
    for kind, wanted, threshold in (
        (POOR_OUTLINE, same, NEAR),
        (WRONG_CLASS, ~same, MATCHED),
        (DOUBLED, same, MATCHED),
    ):
        fits = order[(wanted & ~crowd & (iou >= threshold))[order]]
        kinds[pairs.prediction[fits]] = kind
        targets[pairs.prediction[fits]] = pairs.truth[fits]
    kinds, targets = np.where(partner >= 0, HIT, kinds), np.where(partner >= 0, partner, targets)
    number = np.cumsum(~truth.crowd) - 1
    return Judged(
        found.classes[kept],
        found.scores[kept],
        kinds[kept],
        np.where(targets < 0, -1, number[targets] if len(number) else -1)[kept],
        truth.classes[~truth.crowd],
    )


def within_cap(predictions: Cells, max_detections: int) -> Ints:
    """Numbers of the best of each class, at most as many as are asked for, the best first."""
    ranking = predictions.ranking(-np.inf)
    return ranking[_place_in_class(predictions.classes[ranking]) < max_detections]


def _place_in_class(classes: Ints) -> Ints:
    """How many before each are of the same class."""
    order = np.argsort(classes, kind="stable")
    place = np.empty(len(classes), np.int64)
    place[order] = np.arange(len(classes)) - np.searchsorted(classes[order], classes[order])
    return place


def _coco_matches(truth: Ints, prediction: Ints, iou: Floats, may: Bools, cells: int, predictions: int) -> Ints:
    """(P,) the cell of each prediction or -1: the best first, each takes the free cell of its largest IoU."""
    partner = np.full(predictions, -1)
    taken = np.zeros(cells, bool)
    pairs = np.flatnonzero(may & (iou >= MATCHED))
    for pair in pairs[np.lexsort((-truth[pairs], -iou[pairs], prediction[pairs]))].tolist():  # COCO: the last of equals
        if partner[prediction[pair]] < 0 and not taken[truth[pair]]:
            partner[prediction[pair]] = truth[pair]
            taken[truth[pair]] = True
    return partner


def ap50(classes: Ints, scores: Floats, hits: Bools, cells: Ints) -> float:
    """COCO's AP at an IoU of 0.5 in percent, averaged over the classes that have cells; NaN where none has any.

    Args:
        classes: (D,) int64, of the detections, images in order.
        scores: (D,) float64; of equal ones the earlier comes first.
        hits: (D,) bool, whether a detection has a cell.
        cells: (K,) int64, cells of each class.
    """
    values = []
    for number in np.flatnonzero(cells).tolist():
        own = classes == number
        values.append(precisions(scores[own], hits[own], int(cells[number])).mean())
    return float(100 * np.mean(values)) if values else float("nan")


def precisions(scores: Floats, hits: Bools, cells: int) -> Floats:
    """(101,) of one class at :data:`RECALLS`, in 0 .. 1: the best precision at this recall or a larger one, as COCO's.

    Args:
        scores: (D,) float64, of the class's detections, images in order.
        hits: (D,) bool, whether a detection has a cell.
        cells: number of cells in the class, at least 1.
    """
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(right / cells, RECALLS)]


@dataclass(frozen=True)
class ErrorBreakdown:
    """Errors by kind, in the order of :data:`KINDS`.

    Attributes:
        ap50: of the result as it is, in percent.
        counts: (K,) int64 of each kind, by the class of the detection, or of the missed cell.
        costs: AP50 that mending each kind alone would add, in percent; NaN where there are no cells.
    """

    ap50: float
    counts: dict[str, Ints]
    costs: dict[str, float]


def break_down(judged: Judged, class_count: int) -> ErrorBreakdown:
    """Counts the errors of each kind and what they cost."""
    hits = judged.kinds == HIT
    cells = np.bincount(judged.truth_classes, minlength=class_count)
    base = ap50(judged.classes, judged.scores, hits, cells)
    meant = judged.targets[np.isin(judged.kinds, (HIT, WRONG_CLASS, POOR_OUTLINE))]
    missed = np.bincount(np.delete(judged.truth_classes, meant), minlength=class_count)
    counts, costs = {"missed": missed}, {"missed": ap50(judged.classes, judged.scores, hits, cells - missed) - base}
    for name, kind in KINDS.items():
        if kind >= 0:
            counts[name] = np.bincount(judged.classes[judged.kinds == kind], minlength=class_count)
            costs[name] = _mended(judged, kind, cells) - base
    if not (cells - missed).any() and cells.any():
        costs["missed"] = 100 - base  # all that is left to find is found
    return ErrorBreakdown(base, counts, costs)


def _mended(judged: Judged, kind: int, cells: Ints) -> float:
    """AP50 with the errors of a kind fixed."""
    hits, classes = judged.kinds == HIT, judged.classes.copy()
    kept = judged.kinds != kind
    if kind in (WRONG_CLASS, POOR_OUTLINE):
        free = np.ones(len(judged.truth_classes), bool)
        free[judged.targets[hits]] = False
        wrong = np.flatnonzero(~kept)
        wrong = wrong[free[judged.targets[wrong]]]
        wrong = wrong[np.argsort(-judged.scores[wrong], kind="stable")]
        best = wrong[
            np.unique(judged.targets[wrong], return_index=True)[1]
        ]  # of each cell the first, which is the best
        kept[best] = hits[best] = True
        classes[best] = judged.truth_classes[judged.targets[best]]
    return ap50(classes[kept], judged.scores[kept], hits[kept], cells)
