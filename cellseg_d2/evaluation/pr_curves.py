"""Precision by recall of each class, the curve whose mean is AP50; needs neither torch nor Detectron2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellseg_d2.evaluation.error_breakdown import HIT, Judged, precisions
from cellseg_d2.evaluation.overlap_table import Floats


def precision_curves(judged: Judged, class_names: Sequence[str]) -> dict[str, Floats]:
    """COCO's precision at an IoU of 0.5 of each class that has cells; there is no curve for the others.

    The best F1 of :func:`cellseg_d2.evaluation.thresholds.best_thresholds` lies on the curve, but between two of its
    points and where scores are equal.

    Returns:
        By class name, (101,) in 0 .. 1 at :data:`cellseg_d2.evaluation.error_breakdown.RECALLS`; the mean is AP50.
    """
    curves = {}
    for number, name in enumerate(class_names):
        own, cells = judged.classes == number, int(np.count_nonzero(judged.truth_classes == number))
        if cells:
            curves[name] = precisions(judged.scores[own], judged.kinds[own] == HIT, cells)
    return curves
