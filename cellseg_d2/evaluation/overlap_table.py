"""Which cells of an image lie on which predictions, and by how many pixels, in one pass over the cells' pixels.

Masks are never compared in pairs: one side is painted into a label map, in which the pixels of the other are looked
up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import Rle, Runs, column_runs, decode_runs, topmost, without_gaps
from cellseg_d2.cells.selection import Selection

LARGE = 2**24
"""Pixels of an image from which those that nothing covers are left out."""


@dataclass(frozen=True)
class Cells:
    """N cells of one image, ground truth or predictions, as they are scored; they may overlap.

    Attributes:
        runs: their pixels.
        classes: (N,) int64, contiguous, 0 .. K - 1.
        scores: (N,) float64; 1 for ground truth.
        crowd: (N,) bool, regions of the ground truth that neither reward nor punish; False for predictions.
    """

    runs: Runs
    classes: Ints
    scores: Floats
    crowd: Bools

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def areas(self) -> Ints:
        """(N,) int64, pixels."""
        return self.runs.areas

    @classmethod
    def from_rles(
        cls,
        rles: Sequence[Rle],
        size: tuple[int, int],
        classes: ArrayLike,
        scores: ArrayLike | None = None,
        crowd: ArrayLike | None = None,
    ) -> Cells:
        """Cells from N compressed COCO RLEs of an image of ``size``, (height, width).

        Raises:
            ValueError: an RLE is uncompressed, malformed or of another size.
        """
        return cls.from_runs(decode_runs(rles, size), classes, scores, crowd)

    @classmethod
    def from_label_map(
        cls,
        label_map: NDArray[np.integer[Any]],
        classes: ArrayLike,
        scores: ArrayLike | None = None,
        crowd: ArrayLike | None = None,
    ) -> Cells:
        """Cells from a (H, W) label map of any integer type, 0 is background; the others in ascending order of ids."""
        return cls.from_runs(column_runs(label_map)[1], classes, scores, crowd)

    @classmethod
    def from_runs(
        cls, runs: Runs, classes: ArrayLike, scores: ArrayLike | None = None, crowd: ArrayLike | None = None
    ) -> Cells:
        """Cells from their runs.

        Raises:
            ValueError: there are more or fewer classes, scores or crowds than cells.
        """
        count = len(runs)
        cells = cls(
            runs,
            np.asarray(classes, np.int64),
            np.ones(count) if scores is None else np.asarray(scores, np.float64),
            np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        )
        if {len(cells.classes), len(cells.scores), len(cells.crowd)} != {count}:
            raise ValueError(f"there are {count} cells, but other numbers of classes, scores or crowds")
        return cells

    @classmethod
    def of(cls, cells: CellInstances) -> Cells:
        """Predicted cells, with the scores that results state."""
        return cls.from_runs(cells.runs(), cells.classes, cells.stated_scores)

    def instances(self) -> CellInstances:
        """The same cells with cropped masks, for drawing.

        Raises:
            ValueError: a cell has no pixel.
        """
        return CellInstances.from_runs(self.runs, self.classes, self.scores)

    def pick(self, numbers: Ints) -> Cells:
        """The cells with these numbers, in this order; no number twice."""
        return Cells(self.runs.pick(numbers), self.classes[numbers], self.scores[numbers], self.crowd[numbers])

    def ranking(self) -> Ints:
        """Numbers of the cells, best first; of equal scores the earlier first, as in COCO."""
        return np.argsort(-self.scores, kind="stable")

    def selected(self, selection: Selection) -> Cells:
        """Those that people see, in their order; a cell without pixels is not seen."""
        scored = selection.scored(self.scores, self.classes) & (self.areas > 0)
        return Cells.of(selection.of(self.pick(np.flatnonzero(scored)).instances()))


@dataclass(frozen=True)
class Pairs:
    """The M pairs of a cell and a prediction that have a pixel in common.

    Attributes:
        truth, prediction: (M,) int64, numbers of the cell and of the prediction.
        shared: (M,) int64, pixels in common, at least 1.
    """

    truth: Ints
    prediction: Ints
    shared: Ints


@dataclass(frozen=True)
class Overlaps:
    """Cells of one image against its predictions, after these were flattened: a pixel belongs to one at most.

    Attributes:
        truth_classes, truth_areas: (T,) int64, classes and pixels of the cells without crowds. A pixel of two cells
            counts for both.
        classes, areas: (P,) int64, the predictions that have a pixel left, best first, and how many are left.
        on_crowd: (P,) int64, how many of these pixels lie on crowds of the prediction's own class. A pixel of a cell
            of that class belongs to no crowd.
        on_any_crowd: (P,) int64, the same for crowds and cells of any class.
        hidden: predictions that better ones left no pixel. They are in none of the arrays.
        pairs: which cell lies on which prediction.
    """

    truth_classes: Ints
    truth_areas: Ints
    classes: Ints
    areas: Ints
    on_crowd: Ints
    on_any_crowd: Ints
    hidden: int
    pairs: Pairs


def flat_overlaps(truth: Cells, predictions: Cells) -> Overlaps:
    """Flattens predictions by score and counts the pixels that they share with cells.

    A pixel of several predictions goes to the best of them, whatever its class (of equal scores, to the earlier one),
    as panoptic quality needs it: Kirillov et al., "Panoptic Segmentation", CVPR 2019. A worse prediction takes no pixel
    from a better one, so what a score threshold keeps has the same pixels with and without the rest.

    Args:
        truth: an image's ground truth.
        predictions: predictions for the same image, in any order.
    """
    truth, predictions = _covered(truth, predictions)
    cells = truth.pick(np.flatnonzero(~truth.crowd)) if truth.crowd.any() else truth
    shown = predictions.pick(predictions.ranking())
    flat = topmost(shown.runs.owners(), shown.runs.pixels(), shown.runs.size)
    areas = np.bincount(flat, minlength=len(shown) + 1)[1:]
    left = np.flatnonzero(areas)
    place = np.cumsum(areas > 0) - 1
    pairs = _count([_meet(cells.runs, flat)], len(shown))
    on_crowd, on_any = _crowd_pixels(truth, cells, shown.classes, flat)
    return Overlaps(
        truth_classes=cells.classes,
        truth_areas=cells.areas,
        classes=shown.classes[left],
        areas=areas[left],
        on_crowd=on_crowd[left],
        on_any_crowd=on_any[left],
        hidden=len(shown) - len(left),
        pairs=Pairs(pairs.truth, place[pairs.prediction], pairs.shared),
    )


def whole_overlaps(truth: Cells, predictions: Cells) -> Pairs:
    """The pairs of cells, crowds among them, and predictions as they are: nothing is flattened, as for COCO's AP."""
    truth, predictions = _covered(truth, predictions)
    layers, pixels, owners = [], truth.runs.pixels(), truth.runs.owners()
    while len(pixels):  # one layer for cells that do not overlap; a further one holds what the first had no room for
        layers.append(topmost(owners, pixels, truth.runs.size))
        covered = layers[-1][pixels] != owners + 1
        owners, pixels = owners[covered], pixels[covered]
    pairs = _count([_meet(predictions.runs, flat) for flat in layers], len(truth))
    return Pairs(pairs.prediction, pairs.truth, pairs.shared)


def _covered(truth: Cells, predictions: Cells) -> tuple[Cells, Cells]:
    """Both on the pixels that they cover alone, where their image is large."""
    if truth.runs.size[0] * truth.runs.size[1] <= LARGE:
        return truth, predictions
    runs, found = without_gaps(truth.runs, predictions.runs)
    return replace(truth, runs=runs), replace(predictions, runs=found)


def _meet(runs: Runs, flat: NDArray[np.int32]) -> tuple[Ints, Ints, Ints]:
    """Stretches of runs that lie on one value of a label map but 0: the run's cell, the value - 1 and the pixels."""
    lengths = runs.stops - runs.starts
    begins = np.cumsum(lengths) - lengths
    values = flat[runs.pixels()]
    starts_run = np.zeros(len(values), bool)
    starts_run[begins] = True
    breaks = starts_run.copy()
    breaks[1:] |= values[1:] != values[:-1]
    first = np.flatnonzero(breaks)
    length = np.diff(first, append=len(values))
    run = np.cumsum(starts_run[first]) - 1
    there = values[first] > 0
    return runs.index[run[there]], values[first[there]].astype(np.int64) - 1, length[there]


def _count(met: Sequence[tuple[Ints, Ints, Ints]], values: int) -> Pairs:
    """Sums what :func:`_meet` gives, by cell (``truth``) and value (``prediction``), of which there are ``values``."""
    empty = np.zeros(0, np.int64)
    code = np.concatenate([empty, *(owner * values + value for owner, value, _ in met)])
    length = np.concatenate([empty, *(pixels for _, _, pixels in met)])
    pairs, place = np.unique(code, return_inverse=True)
    owner, value = np.divmod(pairs, max(values, 1))
    return Pairs(owner, value, np.bincount(place, weights=length, minlength=len(pairs)).astype(np.int64))


def _crowd_pixels(truth: Cells, cells: Cells, classes: Ints, flat: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """(P,) pixels of each prediction on crowds of its own class, and on any; see :class:`Overlaps`."""
    on_same, on_any = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
    if not truth.crowd.any():
        return on_same, on_any
    crowds = truth.pick(np.flatnonzero(truth.crowd))
    for number in (None, *np.unique(crowds.classes).tolist()):
        region = np.zeros(len(flat), bool)
        for group, inside in ((crowds, True), (cells, False)):
            members = group if number is None else group.pick(np.flatnonzero(group.classes == number))
            region[members.runs.pixels()] = inside
        pixels = np.bincount(flat[region], minlength=len(classes) + 1)[1:]
        if number is None:
            on_any = pixels
        else:
            on_same = np.where(classes == number, pixels, on_same)
    return on_same, on_any
