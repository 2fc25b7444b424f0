"""Suppression by mask, whatever the class, so that each cell has one instance; the detector's goes by box and class."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.inference.overlaps import Floats, Ints, overlapping_pairs, suppress_pairs

METHODS = ("hard", "soft", "none")


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
