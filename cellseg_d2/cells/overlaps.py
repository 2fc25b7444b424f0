"""Which instances lie on each other, and by how many pixels.

A spatial index finds the pairs whose boxes meet; only these pairs' masks are compared, where their boxes overlap.
"""

from __future__ import annotations

import numpy as np
import shapely

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Window


def neighbours(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Numbers of all pairs of boxes (x0, y0, x1, y1), one from each set, that overlap or touch."""
    pairs = shapely.STRtree(shapely.box(*second.T)).query(shapely.box(*first.T))
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64)


def common_boxes(boxes: Ints, others: Ints) -> Ints:
    """(M, 4), the part of the image that both boxes of each pair cover; without area where they do not overlap."""
    return np.concatenate([np.maximum(boxes, others)[:, :2], np.minimum(boxes, others)[:, 2:]], axis=1)


def crop(mask: Bools, origin: tuple[int, int], window: Window) -> Bools:
    """The part of a mask inside a window; empty where they do not meet."""
    x0, y0, x1, y1 = window
    x, y = origin
    return mask[max(y0 - y, 0) : max(y1 - y, 0), max(x0 - x, 0) : max(x1 - x, 0)]


def shared_pixels(first: CellInstances, second: CellInstances, a: Ints, b: Ints) -> Ints:
    """(M,) number of pixels that the masks ``first[a[m]]`` and ``second[b[m]]`` share."""
    boxes, others = first.mask_boxes[a], second.mask_boxes[b]
    common = common_boxes(boxes, others)
    shared = np.zeros(len(a), np.int64)
    for pair in np.flatnonzero((common[:, 2:] > common[:, :2]).all(axis=1)).tolist():
        window = tuple(common[pair].tolist())
        one = crop(first.masks[a[pair]], boxes[pair, :2].tolist(), window)
        other = crop(second.masks[b[pair]], others[pair, :2].tolist(), window)
        shared[pair] = np.count_nonzero(one & other)
    return shared


def overlapping_pairs(cells: CellInstances, iou: float) -> tuple[Ints, Ints, Floats]:
    """Indices of the pairs of instances whose masks have an IoU above ``iou``, the lower index first, and this IoU."""
    areas, boxes = cells.areas, cells.mask_boxes
    a, b = neighbours(boxes, boxes)
    small, large = np.minimum(areas[a], areas[b]), np.maximum(areas[a], areas[b])
    possible = (a < b) & (small > iou * large)  # an IoU is never above the ratio of the areas
    a, b = a[possible], b[possible]
    shared = shared_pixels(cells, cells, a, b)
    overlap = shared / np.maximum(areas[a] + areas[b] - shared, 1)
    chosen = overlap > iou
    return a[chosen], b[chosen], overlap[chosen]


def suppress_pairs(stays: Bools, rank: Ints, a: Ints, b: Ints) -> None:
    """Sets ``stays`` to False for the worse one of each pair; an instance that is out already takes out no other.

    Args:
        stays: (N,) bool, changed in place.
        rank: (N,) int64, 0 is the best.
        a: (M,) int64, one number of each pair.
        b: (M,) int64, the other number.
    """
    better, worse = np.where(rank[a] < rank[b], (a, b), (b, a))
    for pair in np.argsort(rank[better], kind="stable").tolist():
        if stays[better[pair]]:
            stays[worse[pair]] = False
