"""Which cells of an image were missed, and which predictions are of no cell; needs neither torch nor Detectron2."""

from __future__ import annotations

import numpy as np

from cellseg_d2.evaluation.error_breakdown import match_as_coco
from cellseg_d2.evaluation.overlap_table import Cells, Ints


def unmatched(truth: Cells, predictions: Cells, score_threshold: float) -> tuple[Ints, Ints]:
    """What COCO's matching at an IoU of 0.5 leaves over: the best prediction first, each to a cell of its own class.

    Crowds are never missed, and a prediction of their class that lies on one by half or more is not spurious. One that
    doubles another, or has the wrong class or a poor outline, is.

    Args:
        truth: an image's ground truth.
        predictions: predictions for the same image, in any order.
        score_threshold: predictions below it are left out, as if they were not there.

    Returns:
        Numbers of the missed cells of ``truth`` and of the spurious ones of ``predictions``, both ascending int64.
    """
    ranking = predictions.ranking(score_threshold)
    matches = match_as_coco(truth, predictions.pick(ranking))
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), matches.partner)
    return missed, np.sort(ranking[(matches.partner < 0) & ~matches.absorbed])
