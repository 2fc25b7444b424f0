"""Label maps of one image: what they stand for, how many parts their cells have, and how parts become cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.rle import Runs, column_runs


@dataclass(frozen=True)
class LabelMap:
    """Cells of one image that do not overlap.

    Attributes:
        categories: the classes, 1, 2, ..., that each cell is annotated with; more than one only for ``crowd``.
        labels: (H, W) int32, 0 is background and each other value one cell. It is not changed any more.
        crowd: whether these are regions in which detections are neither rewarded nor punished, instead of cells.
    """

    categories: tuple[int, ...]
    labels: NDArray[np.int32]
    crowd: bool = False

    @cached_property
    def cells(self) -> tuple[Ints, Runs]:
        """The (N,) labels, ascending, and the pixels of these cells; found at the first use and then kept."""
        return column_runs(self.labels)


@dataclass(frozen=True)
class LayeredCells:
    """The N cells of all label maps of one image, so that each step is one for the image instead of one per class.

    Attributes:
        layers: the label maps.
        layer: (N,) int64, the place in ``layers`` of each cell's label map, ascending.
        labels: (N,) int64, each cell's value there, ascending within one label map.
        runs: the cells' pixels; cells of different label maps may overlap.
    """

    layers: Sequence[LabelMap]
    layer: Ints
    labels: Ints
    runs: Runs

    @classmethod
    def of(cls, layers: Sequence[LabelMap]) -> LayeredCells:
        """Those of some label maps of one size; of none, no cell of an image without a pixel."""
        found = [layer.cells for layer in layers]
        counts = [len(labels) for labels, _ in found]
        return cls(
            layers,
            np.repeat(np.arange(len(layers)), counts),
            np.concatenate([np.zeros(0, np.int64), *(labels for labels, _ in found)]),
            Runs.concatenate([runs for _, runs in found]),
        )

    @property
    def crowd(self) -> Bools:
        """(N,) bool, whether a cell is a region to ignore."""
        return np.array([layer.crowd for layer in self.layers], bool)[self.layer]

    @property
    def classes(self) -> Ints:
        """(N,) int64, the class of each cell, 1, 2, ...; of regions to ignore the first one."""
        return np.array([layer.categories[0] for layer in self.layers], np.int64)[self.layer]


def ignore_regions(regions: NDArray[np.generic], class_count: int) -> LabelMap:
    """Regions in which no class is rewarded or punished.

    Args:
        regions: (H, W) bool or integer, 0 outside, and inside each region a value of its own or True.
        class_count: the number of classes.
    """
    return LabelMap(tuple(range(1, class_count + 1)), regions.astype(np.int32, copy=False), crowd=True)


def count_parts(cells: Runs) -> tuple[Ints, Ints]:
    """How many connected parts each of N cells has, and how many holes.

    Pixels that touch at a corner are connected. A hole is a part of the background, or of other cells, that a cell
    encloses.

    A cell's runs, the vertical stretches of its pixels, touch in pairs only. So the Euler number, parts less holes, is
    the number of its runs less the number of pairs, and the parts are the connected groups of its runs (the run-based
    form of Gray's bit-quads, IEEE Trans. Computers C-20, 1971).

    Args:
        cells: what :func:`cellseg_d2.cells.rle.column_runs` gives; no run may reach from one column to the next.

    Returns:
        Two arrays, (N,) int64.

    >>> ring = np.array([[5, 5, 5], [5, 0, 5], [5, 5, 5], [0, 0, 0], [5, 0, 0]])
    >>> parts, holes = count_parts(column_runs(ring)[1])
    >>> parts.tolist(), holes.tolist()
    ([2], [1])
    """
    first, second = _touching(cells)
    root = _roots(len(cells.index), first, second)
    parts = np.bincount(cells.index[root == np.arange(len(root))], minlength=len(cells))
    euler = np.bincount(cells.index, minlength=len(cells)) - np.bincount(cells.index[first], minlength=len(cells))
    return parts, parts - euler


def _touching(runs: Runs) -> tuple[Ints, Ints]:
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


def _roots(count: int, first: Ints, second: Ints) -> Ints:
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
    """Makes each connected part of a cell a separate cell, numbered from 1 by cell and then by its first column.

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
