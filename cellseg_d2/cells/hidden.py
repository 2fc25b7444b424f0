"""Which cells of an image lie under better ones: the one rule that every count, file and picture of cells goes by."""

from __future__ import annotations

import numpy as np

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.overlaps import common_boxes, crop, neighbours

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
    common = common_boxes(boxes[worse], boxes[better])
    meet = (rank[better] < rank[worse]) & (common[:, 2:] > common[:, :2]).all(axis=1)
    by_rank = np.flatnonzero(meet)[np.lexsort((rank[better[meet]], rank[worse[meet]]))]
    worse, better, common = worse[by_rank], better[by_rank], common[by_rank]
    gone = np.zeros(len(cells), bool)
    starts = np.flatnonzero(np.diff(worse, prepend=-1))
    for number, pairs in zip(worse[starts].tolist(), np.split(np.arange(len(worse)), starts[1:])):
        covered = np.zeros_like(cells.masks[number])
        for pair in pairs[~gone[better[pairs]]].tolist():
            other, window = better[pair], tuple(common[pair].tolist())
            part = crop(covered, boxes[number, :2].tolist(), window)  # a view, which is filled below
            shared = crop(cells.masks[number], boxes[number, :2].tolist(), window)
            shared = shared & crop(cells.masks[other], boxes[other, :2].tolist(), window)
            pixels = np.count_nonzero(shared)
            gone[number] |= pixels > iou * (areas[number] + areas[other] - pixels)
            part |= shared
        gone[number] |= np.count_nonzero(covered) > most_covered * areas[number]
    return gone


def visible(cells: CellInstances, iou: float = SAME_IOU, most_covered: float = MOST_COVERED) -> CellInstances:
    """The cells that :func:`hidden` leaves, in their order."""
    return cells[~hidden(cells, iou, most_covered)]
