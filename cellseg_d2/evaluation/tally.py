"""What one image adds to the metrics of cells: matches by class, by IoU and without classes, confusion, AJI.

A crowd (``iscrowd: 1``) neither rewards nor punishes: its pixels count as no part of a prediction, and a prediction
that matches no cell and has more than half of its pixels on crowds is left out (Kirillov et al., CVPR 2019). Metrics
per class look at the crowds of that class, metrics without classes at all crowds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.evaluation.matching import match, one_to_one
from cellseg_d2.evaluation.overlap_table import Overlaps, Pairs

IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
"""0.50, 0.55, ... 0.95: the doubles that fractions of pixels are compared with exactly."""


@dataclass(frozen=True)
class Hits:
    """Numbers of matches; all arrays have the same shape, such as one value per class.

    Attributes:
        hit, spurious, missed: int64, matched pairs, predictions without a cell, cells without a prediction.
        iou: float64, sum of the matched pairs' IoUs.
    """

    hit: Ints
    spurious: Ints
    missed: Ints
    iou: Floats

    @property
    def f1(self) -> Floats:
        """2 hit / (2 hit + spurious + missed), the same as DQ; NaN where there is nothing."""
        return divide(self.hit, self.hit + 0.5 * (self.spurious + self.missed))

    @property
    def accuracy(self) -> Floats:
        """What StarDist calls accuracy, hit / (hit + spurious + missed); NaN where there is nothing."""
        return divide(self.hit, self.hit + self.spurious + self.missed)

    @property
    def sq(self) -> Floats:
        """Mean IoU of matched pairs; NaN where there is none."""
        return divide(self.iou, self.hit)

    @property
    def pq(self) -> Floats:
        """Panoptic quality, DQ x SQ; 0 where nothing matches and NaN where there is nothing."""
        return divide(self.iou, self.hit + 0.5 * (self.spurious + self.missed))

    def pooled(self) -> Hits:
        """Sums over the first axis."""
        return Hits(self.hit.sum(0), self.spurious.sum(0), self.missed.sum(0), self.iou.sum(0))

    @classmethod
    def stack(cls, parts: Sequence[Hits]) -> Hits:
        """Hits with a new first axis."""
        return cls(
            np.stack([part.hit for part in parts]),
            np.stack([part.spurious for part in parts]),
            np.stack([part.missed for part in parts]),
            np.stack([part.iou for part in parts]),
        )


@dataclass(frozen=True)
class ImageTally:
    """What one image adds to the metrics, for K classes.

    Attributes:
        panoptic: (K,), matches within a class at an IoU above 0.5.
        binary: (1,), the same without classes.
        by_iou: (10, K), matches within a class at an IoU of at least each of :data:`IOU_THRESHOLDS`.
        detection: (1,), matches without classes at an IoU of at least 0.5.
        confusion: (K + 1, K + 1) int64, the classes of these matches: rows are the classes of cells and then spurious
            predictions, columns the classes of predictions and then missed cells.
        aji, aji_plus: in 0 .. 1; NaN for an image with neither cells nor predictions.
        hidden: predictions that better ones hide.
    """

    panoptic: Hits
    binary: Hits
    by_iou: Hits
    detection: Hits
    confusion: Ints
    aji: float
    aji_plus: float
    hidden: int


def tally(overlaps: Overlaps, class_count: int) -> ImageTally:
    """Matches the cells and predictions of one image in every way that the metrics need."""
    by_class, anyhow = _within_classes(overlaps, class_count), _any_class(overlaps)
    found = match(anyhow.pairs, anyhow.iou, 0.5)
    matches = [match(by_class.pairs, by_class.iou, threshold) for threshold in IOU_THRESHOLDS]
    return ImageTally(
        panoptic=by_class.hits(match(by_class.pairs, by_class.iou, 0.5, strictly=True)),
        binary=anyhow.hits(match(anyhow.pairs, anyhow.iou, 0.5, strictly=True)),
        by_iou=Hits.stack([by_class.hits(chosen) for chosen in matches]),
        detection=anyhow.hits(found),
        confusion=_confusion(overlaps, found, anyhow.spurious(found), class_count),
        aji=_aji(anyhow, _best(anyhow.pairs, anyhow.iou)),
        aji_plus=_aji(anyhow, np.flatnonzero(one_to_one(anyhow.pairs, anyhow.iou))),
        hidden=overlaps.hidden,
    )


@dataclass(frozen=True)
class _View:
    """Which cells and predictions may match: those of the same class, or all, as if there were one class.

    Attributes:
        truth_classes, truth_areas: (T,) int64, of the cells.
        classes, areas: (P,) int64, of the predictions; the areas are without the pixels on crowds.
        on_crowd: (P,) int64, pixels on crowds.
        pairs: the pairs that may match.
        class_count: number of classes.
    """

    truth_classes: Ints
    truth_areas: Ints
    classes: Ints
    areas: Ints
    on_crowd: Ints
    pairs: Pairs
    class_count: int

    @cached_property
    def unions(self) -> Ints:
        """(M,) int64, pixels of cell and prediction together."""
        return self.truth_areas[self.pairs.truth] + self.areas[self.pairs.prediction] - self.pairs.shared

    @cached_property
    def iou(self) -> Floats:
        """(M,) float64, the pairs' IoU."""
        return self.pairs.shared / self.unions

    def missed(self, chosen: Ints) -> Bools:
        """(T,) bool, cells in none of the chosen pairs."""
        missed = np.ones(len(self.truth_classes), bool)
        missed[self.pairs.truth[chosen]] = False
        return missed

    def spurious(self, chosen: Ints) -> Bools:
        """(P,) bool, predictions in none of the chosen pairs; not those that lie mostly on crowds."""
        spurious = self.on_crowd <= self.areas
        spurious[self.pairs.prediction[chosen]] = False
        return spurious

    def hits(self, chosen: Ints) -> Hits:
        """Hits per class, (K,), from the chosen pairs."""
        classes = self.truth_classes[self.pairs.truth[chosen]]
        return Hits(
            hit=np.bincount(classes, minlength=self.class_count),
            spurious=np.bincount(self.classes[self.spurious(chosen)], minlength=self.class_count),
            missed=np.bincount(self.truth_classes[self.missed(chosen)], minlength=self.class_count),
            iou=np.bincount(classes, self.iou[chosen], self.class_count).astype(np.float64),
        )


def _within_classes(overlaps: Overlaps, class_count: int) -> _View:
    pairs = overlaps.pairs
    same = overlaps.truth_classes[pairs.truth] == overlaps.classes[pairs.prediction]
    return _View(
        overlaps.truth_classes,
        overlaps.truth_areas,
        overlaps.classes,
        overlaps.areas - overlaps.on_crowd,
        overlaps.on_crowd,
        Pairs(pairs.truth[same], pairs.prediction[same], pairs.shared[same]),
        class_count,
    )


def _any_class(overlaps: Overlaps) -> _View:
    return _View(
        np.zeros_like(overlaps.truth_classes),
        overlaps.truth_areas,
        np.zeros_like(overlaps.classes),
        overlaps.areas - overlaps.on_any_crowd,
        overlaps.on_any_crowd,
        overlaps.pairs,
        1,
    )


def _confusion(overlaps: Overlaps, chosen: Ints, spurious: Bools, class_count: int) -> Ints:
    """(K + 1, K + 1), see :class:`ImageTally`."""
    truth, prediction = overlaps.pairs.truth[chosen], overlaps.pairs.prediction[chosen]
    confusion = np.zeros((class_count + 1, class_count + 1), np.int64)
    np.add.at(confusion, (overlaps.truth_classes[truth], overlaps.classes[prediction]), 1)
    np.add.at(confusion[-1], overlaps.classes[spurious], 1)
    np.add.at(confusion[:, -1], np.delete(overlaps.truth_classes, truth), 1)
    return confusion


def _best(pairs: Pairs, iou: Floats) -> Ints:
    """Numbers of the pairs that give each cell its largest IoU; of equal ones, the one of more shared pixels."""
    order: Ints = np.lexsort((pairs.prediction, -pairs.shared, -iou, pairs.truth))
    return order[np.diff(pairs.truth[order], prepend=-1) > 0]


def _aji(view: _View, chosen: Ints) -> float:
    """The chosen pairs' shared pixels, divided by the pixels of their unions, other cells and other predictions.

    With each cell's best prediction, which several cells may share, this is AJI (Kumar et al., "A Dataset and a
    Technique for Generalized Nuclear Segmentation for Computational Pathology", IEEE TMI 2017); with one to one pairs
    of the largest sum of IoUs, AJI+ (Graham et al., "HoVer-Net", Medical Image Analysis 2019).
    """
    missed, spurious = view.truth_areas[view.missed(chosen)], view.areas[view.spurious(chosen)]
    total = view.unions[chosen].sum() + missed.sum() + spurious.sum()
    return float(divide(view.pairs.shared[chosen].sum(), total))


def divide(values: ArrayLike, by: ArrayLike) -> Floats:
    """The quotients; NaN where the divisor is 0."""
    numerator, divisor = np.asarray(values, np.float64), np.asarray(by, np.float64)
    return np.divide(numerator, divisor, out=np.full(divisor.shape, np.nan), where=divisor > 0)
