"""What kinds of errors a result has, and the AP50 that each of them costs.

The idea is TIDE's (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020): every
detection that COCO takes for false is of one kind, and a kind costs what AP50 gains if the errors of that kind alone
are fixed. Nothing is flattened here. A detection is of the first kind that fits:

- doubled: it has an IoU of at least 0.5 with a cell of its class, which a better detection has. Fixed: left out.
- wrong class: it has an IoU of at least 0.5 with a cell of another class. Fixed: it gets that class and is right.
- poor outline: it has an IoU of at least 0.1 with a cell of its class. Fixed: it gets that outline and is right.
- spurious: anything else, also a detection that is wrong in class and outline. Fixed: left out.
- missed: a cell that no detection has, nor would have if classes and outlines were fixed. Fixed: it is not counted.

Where a cell is already found, or several detections would get it, only the best is right and the others are left out.
TIDE has two kinds for what is spurious here. It also tests for a poor outline first, so that a detection of the wrong
class that touches a cell of that class has a poor outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.evaluation.coco_matching import MATCHED, ap50, match_as_coco, within_cap
from cellseg_d2.evaluation.overlap_table import Cells

HIT, DOUBLED, WRONG_CLASS, POOR_OUTLINE, SPURIOUS = range(5)
KINDS = {
    "missed": -1,
    "spurious": SPURIOUS,
    "wrong class": WRONG_CLASS,
    "poor outline": POOR_OUTLINE,
    "doubled": DOUBLED,
}

NEAR = 0.1
"""The least IoU of a detection that shows the cell though its outline is poor, as in TIDE."""


@dataclass(frozen=True)
class Judged:
    """D detections of one or many images and what COCO's matching at an IoU of 0.5 says of them.

    Detections that crowds absorb are left out, as are those above the cap per image and class.

    Attributes:
        classes, scores: (D,) int64 and float64.
        kinds: (D,) int64, HIT or one of the kinds of error.
        targets: (D,) int64, the cell that a detection has or was meant for; -1 for spurious ones.
        truth_classes: (T,) int64, classes of the cells, without crowds.
    """

    classes: Ints
    scores: Floats
    kinds: Ints
    targets: Ints
    truth_classes: Ints

    @classmethod
    def concatenate(cls, parts: Sequence[Judged]) -> Judged:
        """The detections of many images as if they were of one."""
        offsets = np.cumsum([0, *(len(part.truth_classes) for part in parts)])
        targets = [np.where(part.targets < 0, -1, part.targets + start) for part, start in zip(parts, offsets)]
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.kinds for part in parts]),
            np.concatenate(targets),
            np.concatenate([part.truth_classes for part in parts]),
        )

    def of_class(self, number: int) -> tuple[Floats, Bools, int]:
        """Scores of one class's detections, whether each has a cell, and the number of cells in the class."""
        chosen = self.classes == number
        return self.scores[chosen], self.kinds[chosen] == HIT, int(np.count_nonzero(self.truth_classes == number))


def judge(truth: Cells, predictions: Cells, max_detections: int) -> Judged:
    """Matches the detections of one image as COCO does, and finds out what is wrong with those that match nothing.

    Args:
        truth: the image's ground truth.
        predictions: predictions for the same image, in any order.
        max_detections: detections judged per class, the best first.
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


@dataclass(frozen=True)
class ErrorBreakdown:
    """Errors by kind, in the order of :data:`KINDS`.

    Attributes:
        ap50: AP50 of the result as it is, in percent.
        counts: (K,) int64 per kind: errors by class of the detection, or of the missed cell.
        costs: AP50 that fixing one kind alone would add, in percent; NaN where there are no cells.
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
            costs[name] = _ap50_without(judged, kind, cells) - base
    if not (cells - missed).any() and cells.any():
        costs["missed"] = 100 - base  # all that is left to find is found
    return ErrorBreakdown(base, counts, costs)


def _ap50_without(judged: Judged, kind: int, cells: Ints) -> float:
    """AP50 with the errors of a kind fixed."""
    hits, classes = judged.kinds == HIT, judged.classes.copy()
    kept = judged.kinds != kind
    if kind in (WRONG_CLASS, POOR_OUTLINE):
        free = np.ones(len(judged.truth_classes), bool)
        free[judged.targets[hits]] = False
        wrong = np.flatnonzero(~kept)
        wrong = wrong[free[judged.targets[wrong]]]
        wrong = wrong[np.argsort(-judged.scores[wrong], kind="stable")]
        # the first detection of each cell, which is its best
        best = wrong[np.unique(judged.targets[wrong], return_index=True)[1]]
        kept[best] = hits[best] = True
        classes[best] = judged.truth_classes[judged.targets[best]]
    return ap50(classes[kept], judged.scores[kept], hits[kept], cells)
