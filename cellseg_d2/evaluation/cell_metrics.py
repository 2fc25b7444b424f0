"""Metrics of cell segmentation: PQ, mPQ+, AJI, F1 by IoU, detection and confusion of classes, counts.

Predictions are flattened by score first, see :func:`cellseg_d2.evaluation.overlap_table.flat_overlaps`;
:mod:`cellseg_d2.evaluation.tally` says what crowds do.

>>> truth = Cells.from_label_map(np.array([[1, 1, 0, 2], [1, 1, 0, 2]]), classes=[0, 1])
>>> found = Cells.from_label_map(np.array([[7, 7, 0, 0], [7, 0, 0, 0]]), classes=[0], scores=[0.9])
>>> metrics = summarise([tally(flat_overlaps(truth, found), 2)], ["round", "long"])
>>> metrics.classes["round"]["PQ"], metrics.classes["long"]["PQ"], metrics.summary["AJI"]
(75.0, 0.0, 50.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Floats, Ints
from cellseg_d2.evaluation.overlap_table import Cells, flat_overlaps
from cellseg_d2.evaluation.tally import IOU_THRESHOLDS, Hits, ImageTally, divide, tally

__all__ = ["CellMetrics", "Cells", "flat_overlaps", "summarise", "tally"]

F1_NAMES = [f"F1@{threshold:.2f}" for threshold in IOU_THRESHOLDS]
ACCURACY_NAMES = [f"accuracy@{threshold:.2f}" for threshold in IOU_THRESHOLDS]


@dataclass(frozen=True)
class CellMetrics:
    """Metrics of a set of images, in percent where they are shares; NaN where there is nothing to measure.

    Attributes:
        summary: ``PQ``, ``mPQ+`` and so on, see :func:`summarise`.
        classes: PQ, DQ, SQ, F1 and accuracy by IoU, and numbers of cells, per class name.
        confusion: (K + 1, K + 1) int64, summed over images, see :class:`ImageTally`.
        counts: (images, K, 3) int64: hit, spurious and missed, within a class at an IoU of at least 0.5.
    """

    summary: dict[str, float]
    classes: dict[str, dict[str, float]]
    confusion: Ints
    counts: Ints


def summarise(
    tallies: Sequence[ImageTally], class_names: Sequence[str], tissues: Sequence[str | None] | None = None
) -> CellMetrics:
    """The metrics of a set of images.

    - ``mPQ+``: PQ per class from matches pooled over all images, averaged over classes (Graham et al., CoNIC,
      arXiv:2111.14485). A class that neither cells nor predictions have is left out; CoNIC, whose classes all occur,
      would count it as 0. ``DQ`` and ``SQ`` are averaged over classes likewise.
    - ``PQ_monusac``: PQ per image and class that has cells in it, averaged over classes, then over images (Verma et
      al., MoNuSAC, IEEE TMI 2021). Predictions of a class that an image does not have go unpunished, as they do there.
    - ``mPQ_pannuke``: the same, averaged over a tissue's images, then over tissues (Gamper et al., PanNuke,
      arXiv:2003.10778); ``bPQ_pannuke``: without classes. Where no tissues are known, all images count as one tissue.
    - ``AJI``, ``AJI+``: without classes, averaged over images.
    - ``F1@0.50`` .. ``F1@0.95``: from matches within a class pooled over images, averaged over classes; ``F1`` is their
      mean. An IoU equal to the threshold matches, unlike for PQ.
    - ``accuracy@0.50`` .. ``accuracy@0.95``: StarDist's TP / (TP + FP + FN) of the same matches (Schmidt et al., MICCAI
      2018).
    - ``detection_F1``, ``detection_precision``, ``detection_recall``: whether a cell was found, whatever its class;
      ``classification_accuracy``: share of those found that have the right class; ``detection_IoU``: their mean IoU.
    - ``cells``, ``predictions``: matched, spurious and missed ones, so without those that crowds took out; ``hidden``:
      predictions that better ones hide, see :mod:`cellseg_d2.cells.hidden`.

    Args:
        tallies: one tally per image, at least one.
        class_names: the names of the K classes.
        tissues: the tissue of each image, None where it is unknown.
    """
    panoptic = Hits.stack([image.panoptic for image in tallies])
    binary = Hits.stack([image.binary for image in tallies])
    by_iou = Hits.stack([image.by_iou for image in tallies])
    confusion = np.sum([image.confusion for image in tallies], axis=0)
    pooled, pooled_by_iou = panoptic.pooled(), by_iou.pooled()
    present = np.array([mean(row) for row in np.where(panoptic.hit + panoptic.missed > 0, panoptic.pq, np.nan)])
    binary_present = np.where(binary.hit + binary.missed > 0, binary.pq, np.nan)[:, 0]
    rates = {
        "mPQ+": mean(pooled.pq),
        "DQ": mean(pooled.f1),
        "SQ": mean(pooled.sq),
        "PQ_monusac": mean(present),
        "mPQ_pannuke": _by_tissue(present, tissues),
        "bPQ_pannuke": _by_tissue(binary_present, tissues),
        "AJI": mean(np.array([image.aji for image in tallies])),
        "AJI+": mean(np.array([image.aji_plus for image in tallies])),
        "F1": mean(pooled_by_iou.f1.mean(axis=0)),
        **{name: mean(values) for name, values in zip(F1_NAMES, pooled_by_iou.f1)},
        **{name: mean(values) for name, values in zip(ACCURACY_NAMES, pooled_by_iou.accuracy)},
    }
    detection, counts = _detection(Hits.stack([image.detection for image in tallies]).pooled(), confusion)
    counts["hidden"] = float(sum(image.hidden for image in tallies))
    return CellMetrics(
        summary=_percent(rates | detection) | counts,
        classes={name: _of_class(pooled, pooled_by_iou, number) for number, name in enumerate(class_names)},
        confusion=confusion,
        counts=np.stack([by_iou.hit[:, 0], by_iou.spurious[:, 0], by_iou.missed[:, 0]], axis=-1),
    )


def _detection(found: Hits, confusion: Ints) -> tuple[dict[str, float], dict[str, float]]:
    """Rates and numbers for detection without classes, from (1,) hits."""
    hit, spurious, missed = (int(values[0]) for values in (found.hit, found.spurious, found.missed))
    rates = {
        "detection_F1": float(found.f1[0]),
        "detection_precision": float(divide(hit, hit + spurious)),
        "detection_recall": float(divide(hit, hit + missed)),
        "detection_IoU": float(found.sq[0]),
        "classification_accuracy": float(divide(np.trace(confusion[:-1, :-1]), hit)),
    }
    return rates, {"cells": float(hit + missed), "predictions": float(hit + spurious)}


def _of_class(panoptic: Hits, by_iou: Hits, number: int) -> dict[str, float]:
    """One class's rates and numbers, from (K,) and (10, K) hits."""
    rates = {"PQ": panoptic.pq[number], "DQ": panoptic.f1[number], "SQ": panoptic.sq[number]}
    rates |= {"F1": by_iou.f1[:, number].mean(), **dict(zip(F1_NAMES, by_iou.f1[:, number]))}
    rates |= dict(zip(ACCURACY_NAMES, by_iou.accuracy[:, number]))
    hit, spurious, missed = (int(values[0, number]) for values in (by_iou.hit, by_iou.spurious, by_iou.missed))
    counts = {
        "cells": hit + missed,
        "predictions": hit + spurious,
        "hit": hit,
        "spurious": spurious,
        "missed": missed,
    }
    return _percent(rates) | {name: float(value) for name, value in counts.items()}


def _percent(values: dict[str, Any]) -> dict[str, float]:
    return {name: 100 * float(value) for name, value in values.items()}


def mean(values: NDArray[Any]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _by_tissue(values: Floats, tissues: Sequence[str | None] | None) -> float:
    """Mean over tissues of the means over their images."""
    known = np.array([str(tissue) for tissue in tissues or [None] * len(values)])
    return mean(np.array([mean(values[known == tissue]) for tissue in sorted(set(known))]))
