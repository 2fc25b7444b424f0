"""Label maps of one image: what they stand for, what their cells measure, and how blobs become cells of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.rle import EncodedLabels, Runs, column_runs
from cellseg_d2.cells.tiling import Window


@dataclass(frozen=True)
class LabelMap:
    """Cells of one image that do not overlap.

    Attributes:
        categories: the classes, 1, 2, ..., that each cell is annotated with; more than one only for ``crowd``.
        labels: (H, W) int32, 0 is background and each other value one cell.
        crowd: whether these are regions in which detections are neither rewarded nor punished, instead of cells.
    """

    categories: tuple[int, ...]
    labels: NDArray[np.int32]
    crowd: bool = False


@dataclass(frozen=True)
class CellMeasures:
    """What the N cells of a label map measure.

    Attributes:
        ids: (N,) int64, the labels, ascending.
        areas: (N,) int64, pixels.
        boxes: (N, 4) int64, (x0, y0, x1, y1), half open, tight.
        blobs: (N,) int64, connected parts (pixels that touch at a corner are connected).
        holes: (N,) int64, parts of the background or of other cells that a cell encloses.
        runs: their pixels, each run within one column; ``runs.index`` is the place in ``ids``.
    """

    ids: NDArray[np.int64]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]
    blobs: NDArray[np.int64]
    holes: NDArray[np.int64]
    runs: Runs

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, window: Window) -> tuple[EncodedLabels, NDArray[np.int64]]:
        """The cells that a window, (x0, y0, x1, y1), shows, in its frame, and the place of each in ``ids``.

        No pixel is looked at again, and only the runs of cells whose box reaches into the window are.
        """
        x0, y0, x1, y1 = window
        left, top, right, bottom = self.boxes.T
        near = np.flatnonzero((left < x1) & (right > x0) & (top < y1) & (bottom > y0))
        runs = self.runs.crop(near, window)
        begins = np.diff(runs.index, prepend=-1) > 0
        places = near[runs.index[begins]]
        return EncodedLabels.of(self.ids[places], replace(runs, index=np.cumsum(begins) - 1)), places


def measure_cells(labels: NDArray[np.integer[Any]]) -> CellMeasures:
    """Measures all cells of a (H, W) label map in one pass over its pixels; all else follows the runs.

    A cell's runs, the vertical stretches of its pixels, touch in pairs only. So the Euler number, parts less holes, is
    the number of its runs less that of the pairs, and the parts are the connected groups of its runs (the run-based
    form of Gray's bit-quads, IEEE Trans. Computers C-20, 1971).

    >>> ring = np.array([[5, 5, 5], [5, 0, 5], [5, 5, 5], [0, 0, 0], [5, 0, 0]])
    >>> cells = measure_cells(ring)
    >>> cells.areas.tolist(), cells.blobs.tolist(), cells.holes.tolist()
    ([9], [2], [1])
    """
    ids, runs = column_runs(labels)
    count = len(ids)
    first, second = _touching(runs)
    root = _roots(len(runs.index), first, second)
    blobs = np.bincount(runs.index[root == np.arange(len(root))], minlength=count)
    euler = np.bincount(runs.index, minlength=count) - np.bincount(runs.index[first], minlength=count)
    return CellMeasures(ids, runs.areas(count), runs.bboxes(count), blobs, blobs - euler, runs)


def _touching(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs of one cell in neighbouring columns that touch, at a corner at least."""
    height, width = runs.size
    stride = height + 2  # columns one pixel apart, so that a run never reaches into the next column's places
    column, row = np.divmod(runs.starts, height)
    cell = runs.index * (width + 1) * stride
    starts = cell + column * stride + row  # ascending, since runs are sorted by cell and place
    stops = starts + (runs.stops - runs.starts)
    low = np.searchsorted(stops, starts + stride, side="left")  # the first that ends at or below the place to the right
    high = np.searchsorted(starts, stops + stride, side="right")
    counts = np.maximum(high - low, 0)
    first = np.repeat(np.arange(len(starts)), counts)
    second = low[first] + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first, second


def _roots(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least of each group of ``count`` numbers that pairs connect.

    On the few hundred runs of a real label map this takes a fifth of the time of ``scipy.sparse.csgraph``, which builds
    three matrices first; on millions it takes as long.
    """
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        if np.array_equal(one, other):
            return root
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(root, further := root[root]):
            root = further


def split_blobs(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Makes each connected part of a cell a cell of its own, numbered from 1 by cell and then by its first column.

    Pixels that touch at a corner are connected, as in ImageJ's and scikit-image's default. The cost follows pixels and
    runs, so that cells of one id that lie far apart cost no more than others.

    >>> split_blobs(np.array([[7, 0, 7], [0, 0, 7], [5, 0, 0]], np.int32)).tolist()
    [[2, 0, 3], [0, 0, 3], [1, 0, 0]]
    """
    _, runs = column_runs(labels)
    root = _roots(len(runs.index), *_touching(runs))
    number = np.cumsum(root == np.arange(len(root)), dtype=np.int32)[root]  # a part's first run is its root
    height, width = labels.shape
    steps = np.zeros(labels.size + 1, np.int32)  # from each pixel to the next, in column-major order
    steps[runs.starts] += number  # no two runs start or stop at one place
    steps[runs.stops] -= number
    return np.ascontiguousarray(np.cumsum(steps[:-1], dtype=np.int32).reshape(width, height).T)


def split_classes(labels: NDArray[np.int32], classes: Mapping[int, int]) -> list[LabelMap]:
    """Splits a label map whose cells have different classes into one label map per class.

    Args:
        labels: (H, W) int32, 0 is background and each other value one cell.
        classes: label -> class number 1, 2, ...; labels that the map does not have are allowed.

    Raises:
        ValueError: a label has no class.

    >>> split = split_classes(np.array([[1, 1, 0], [0, 7, 7]], np.int32), {1: 2, 7: 1})
    >>> [(part.categories, part.labels.tolist()) for part in split]
    [((1,), [[0, 0, 0], [0, 7, 7]]), ((2,), [[1, 1, 0], [0, 0, 0]])]
    """
    ids, inverse = np.unique(labels, return_inverse=True)
    missing = [int(label) for label in ids if label and int(label) not in classes]
    if missing:
        raise ValueError(f"label {missing[0]} has no class ({len(missing)} such)")
    class_of_label = np.array([classes[int(label)] if label else 0 for label in ids], np.int64)
    class_of_pixel = class_of_label[inverse].reshape(labels.shape)
    numbers = sorted(set(class_of_label[ids != 0].tolist()))
    return [LabelMap((number,), np.where(class_of_pixel == number, labels, 0)) for number in numbers]
