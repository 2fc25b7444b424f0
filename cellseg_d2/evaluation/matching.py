"""The best one-to-one matching of cells and predictions, for PQ, AJI+ and F1.

:mod:`cellseg_d2.evaluation.coco_matching` has COCO's, which goes by score.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.evaluation.overlap_table import Pairs


def one_to_one(pairs: Pairs, weight: Floats) -> Bools:
    """The pairs that together have the largest weight, with no cell and no prediction in more than one of them.

    That is the Hungarian assignment, solved on the pairs alone instead of on a table of all cells and all predictions.

    Args:
        pairs: M pairs, none twice.
        weight: (M,) float64, above 0.

    Returns:
        (M,) bool.
    """
    truth, prediction = pairs.truth, pairs.prediction
    alone = (np.bincount(truth)[truth] == 1) & (np.bincount(prediction)[prediction] == 1)
    chosen: Bools = alone.copy()
    rest = np.flatnonzero(~alone)
    if len(rest):
        cells, row = np.unique(truth[rest], return_inverse=True)
        found, column = np.unique(prediction[rest], return_inverse=True)
        # SciPy's solver pairs every row: one further column per row stands for no partner. 1 is added to all weights,
        # since a weight of 0 would be no pair.
        every = np.arange(len(cells))
        rows, columns = np.append(row, every), np.append(column, len(found) + every)
        table = csr_array((np.append(weight[rest] + 1, np.ones(len(cells))), (rows, columns)))
        partner = min_weight_full_bipartite_matching(table, maximize=True)[1]
        chosen[rest] = partner[row] == column
    return chosen


def match(pairs: Pairs, iou: Floats, threshold: float, strictly: bool = False) -> Ints:
    """Numbers of the pairs that match at an IoU threshold: as many as can be, and of these the largest IoUs.

    Above 0.5 no choice is left where neither cells nor predictions overlap. At just 0.5 there may be two halves, and
    overlapping cells can have several partners.

    Args:
        pairs: M pairs.
        iou: (M,) float64, the IoU of each pair.
        threshold: at least 0.5.
        strictly: whether an IoU equal to the threshold is too low, as for panoptic quality; COCO, StarDist and this
            package's F1 take it.
    """
    near = np.flatnonzero(iou > threshold if strictly else iou >= threshold)
    weight = 1 + iou[near] / (len(near) + 1)  # all IoUs together weigh less than one more pair
    candidates = Pairs(pairs.truth[near], pairs.prediction[near], pairs.shared[near])
    return near[one_to_one(candidates, weight)]
