"""Which cells of an image lie under better ones: the one rule that every count, file and picture of cells goes by."""

from __future__ import annotations

import numpy as np

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.overlaps import neighbours

SAME_IOU = 0.5
"""Above this IoU two masks show one nucleus."""

MOST_COVERED = 0.5
"""A cell of which better ones cover a larger share than this is not one that a person would count."""


def hidden(cells: CellInstances, iou: float = SAME_IOU, most_covered: float = MOST_COVERED) -> Bools:
    """Which cells show a nucleus that a better one shows, or lie for the most part under better ones.

    From the best score down, whatever the classes: a cell is hidden if its IoU with one that stays is above ``iou``, or
    if those that stay cover together more than ``most_covered`` of its pixels. So each cell that stays keeps a share of
    1 - ``most_covered`` of its pixels where the better one lies on top, as in a label map. Taking away the cells
    below a score changes nothing for the others, and of what stays nothing is hidden.

    Args:
        cells: the cells of one image, each with a pixel.
        iou: the IoU of two masks above which they show one nucleus.
        most_covered: the largest share of a cell's pixels, below 1, that better ones may cover.

    Returns:
        (N,) bool.
    """
    boxes, areas = cells.mask_boxes, cells.areas
    order = cells.ranking
    rank = np.empty(len(cells), np.int64)
    rank[order] = np.arange(len(cells))
    worse, better = neighbours(boxes, boxes)
    meet = (rank[better] < rank[worse]) & _share_area(boxes[worse], boxes[better])
    worse, better = worse[meet], better[meet]
    by_rank = np.lexsort((rank[better], rank[worse]))
    worse, better = worse[by_rank], better[by_rank]
    gone = np.zeros(len(cells), bool)
    starts = np.flatnonzero(np.diff(worse, prepend=-1))
    for number, above in zip(worse[starts].tolist(), np.split(better, starts[1:])):
        covered = np.zeros_like(cells.masks[number])
        for other in above[~gone[above]].tolist():
            shared = _common(cells, number, other, boxes)
            pixels = np.count_nonzero(shared)
            gone[number] |= pixels > iou * (areas[number] + areas[other] - pixels)
            x0, y0 = np.maximum(boxes[number, :2], boxes[other, :2]) - boxes[number, :2]
            covered[y0 : y0 + shared.shape[0], x0 : x0 + shared.shape[1]] |= shared
        gone[number] |= np.count_nonzero(covered) > most_covered * areas[number]
    return gone


def visible(cells: CellInstances, iou: float = SAME_IOU, most_covered: float = MOST_COVERED) -> CellInstances:
    """The cells that :func:`hidden` leaves, in their order."""
    return cells[~hidden(cells, iou, most_covered)]


def _share_area(boxes: Ints, others: Ints) -> Bools:
    """(M,) bool, whether boxes overlap, rather than touch."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    return (high > low).all(axis=1)


def _common(cells: CellInstances, a: int, b: int, boxes: Ints) -> Bools:
    """(h, w) bool, the pixels that two cells share, in the part of the image that both boxes cover."""
    low, high = np.maximum(boxes[a, :2], boxes[b, :2]), np.minimum(boxes[a, 2:], boxes[b, 2:])
    parts = []
    for number in (a, b):
        (x0, y0), (x1, y1) = low - boxes[number, :2], high - boxes[number, :2]
        parts.append(cells.masks[number][y0:y1, x0:x1])
    return parts[0] & parts[1]
