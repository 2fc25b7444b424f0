"""Which cells people see; and suppression by mask, whatever the class (the detector's goes by box and class)."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.hidden import MOST_COVERED, SAME_IOU, visible
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.overlaps import overlapping_pairs, suppress_pairs
from cellseg_d2.errors import CellSegError

METHODS = ("hard", "soft", "none")

DEFAULT_SCORE = 0.5
"""The least score of a cell where nothing says another."""


@dataclass(frozen=True)
class Selection:
    """Which cells of an image people see: those with a high score, one per nucleus, none hidden under better ones.

    Counts, files and pictures go by it; COCO results do not, since AP needs all.

    Attributes:
        class_names: the names of class 0, 1, ...
        min_score: the least score of a cell, in [0, 1].
        min_score_of_class: the same for single classes, by name.
        method: as of :func:`suppress`; with ``none`` only the score decides.
        iou: the IoU of two masks above which they show one nucleus, see :func:`cellseg_d2.cells.hidden.hidden`.
        most_covered: the largest share of a cell that better ones may cover.

    Raises:
        CellSegError: a score or a share is not from 0 to 1, or a class or the method is unknown.
    """

    class_names: Sequence[str]
    min_score: float = DEFAULT_SCORE
    min_score_of_class: Mapping[str, float] = field(default_factory=dict)
    method: str = "hard"
    iou: float = SAME_IOU
    most_covered: float = MOST_COVERED

    def __post_init__(self) -> None:
        check_least_scores([self.min_score, *self.min_score_of_class.values()])
        if unknown := sorted(self.min_score_of_class.keys() - set(self.class_names)):
            raise CellSegError(f"{unknown[0]!r} is not among the classes: {', '.join(self.class_names)}")
        if self.method not in METHODS or not (0 < self.iou < 1 and 0 <= self.most_covered < 1):
            raise CellSegError(
                f"method {self.method!r}, IoU {self.iou}, share {self.most_covered} are no way to leave out cells; "
                f"give one of {', '.join(METHODS)}, and shares below 1"
            )

    @property
    def least(self) -> dict[str, float]:
        """The least score of each class, by name."""
        return {name: self.min_score_of_class.get(name, self.min_score) for name in self.class_names}

    def scored(self, scores: Floats, classes: Ints) -> Bools:
        """(N,) bool, which cells score enough for their class."""
        return scores >= np.array(list(self.least.values()))[classes]

    def of(self, cells: CellInstances) -> CellInstances:
        """Those of all cells of an image, in their order."""
        kept = cells[self.scored(cells.stated_scores, cells.classes)]
        if self.method == "soft":
            kept = suppress(kept, method=self.method, iou=self.iou)
            kept = kept[self.scored(kept.stated_scores, kept.classes)]  # it lowers scores
        return kept if self.method == "none" else visible(kept, self.iou, self.most_covered)


def check_least_scores(scores: Iterable[float]) -> None:
    """Raises CellSegError for a least score that is not from 0 to 1."""
    for score in scores:
        if not 0 <= score <= 1:
            raise CellSegError(f"the least score of a cell is from 0 to 1, not {score}")


def suppress(cells: CellInstances, *, method: str, iou: float) -> CellInstances:
    """Keeps one of the instances whose masks overlap by more than an IoU, whatever their classes.

    Touching cells share few pixels, so they stay, however much their boxes overlap.

    Args:
        cells: the cells of one image.
        method: ``hard`` removes all but the one with the best score. ``soft`` multiplies the score of each by 1 - IoU
            for every better one that it overlaps (Bodla et al., Soft-NMS, ICCV 2017, linear), which keeps second
            guesses for AP. ``none`` changes nothing.
        iou: masks with a larger IoU than this show one cell; in (0, 1).

    Returns:
        The remaining cells, in their order.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    if method == "none" or len(cells) < 2:
        return cells
    a, b, overlap = overlapping_pairs(cells, iou)
    if method == "hard":
        stays = np.ones(len(cells), bool)
        suppress_pairs(stays, np.argsort(np.argsort(-cells.scores, kind="stable")), a, b)
        return cells[stays]
    scores = _soft_scores(cells.scores.astype(np.float64), a, b, overlap)
    return cells.with_scores(scores)


def _soft_scores(scores: Floats, a: Ints, b: Ints, overlap: Floats) -> Floats:
    """The scores after Soft-NMS: from the best on, each instance lowers the scores of those that it overlaps."""
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for first, second, value in zip(a.tolist(), b.tolist(), overlap.tolist()):
        near[first].append((second, value))
        near[second].append((first, value))
    scores = scores.copy()
    queue = [(-score, number) for number, score in enumerate(scores.tolist()) if number in near]
    heapq.heapify(queue)
    done: set[int] = set()
    while queue:
        score, number = heapq.heappop(queue)
        if number in done or -score != scores[number]:  # an entry from before its score was lowered
            continue
        done.add(number)
        for other, value in near[number]:
            if other not in done:
                scores[other] *= 1 - value
                heapq.heappush(queue, (-scores[other], other))
    return scores
