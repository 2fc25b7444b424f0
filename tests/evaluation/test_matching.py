"""One-to-one matching against SciPy's assignment on the full table."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cellseg_d2.evaluation.matching import match, one_to_one
from cellseg_d2.evaluation.overlap_table import Pairs


def draw_pairs(seed, sparse):
    rng = np.random.default_rng(seed)
    table = rng.random((int(rng.integers(1, 30)), int(rng.integers(1, 30)))) * (rng.random((1, 1)) + 0.1)
    table[rng.random(table.shape) < sparse] = 0
    truth, prediction = np.nonzero(table)
    return table, Pairs(truth, prediction, np.ones(len(truth), np.int64)), table[truth, prediction]


@pytest.mark.parametrize("sparse", [0.0, 0.7, 0.95, 1.0])
def test_the_weight_is_that_of_the_assignment_on_the_full_table(sparse):
    for seed in range(20):
        table, pairs, weight = draw_pairs(seed, sparse)
        chosen = one_to_one(pairs, weight)
        for side in (pairs.truth, pairs.prediction):
            assert len(np.unique(side[chosen])) == chosen.sum()
        assert weight[chosen].sum() == pytest.approx(table[linear_sum_assignment(-table)].sum())


def test_more_matches_come_before_larger_ious():
    """A cell and a prediction that fit best would leave their other partners alone."""
    pairs = Pairs(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([9, 5, 5]))
    assert match(pairs, np.array([0.9, 0.5, 0.5]), 0.5).tolist() == [1, 2]
    assert match(pairs, np.array([0.9, 0.5, 0.5]), 0.5, strictly=True).tolist() == [0]
    assert match(pairs, np.array([0.9, 0.5, 0.5]), 0.95).tolist() == []


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75])
def test_as_many_match_as_on_the_full_table(threshold):
    for seed in range(20):
        table, pairs, iou = draw_pairs(seed, 0.5)
        chosen = match(pairs, iou, threshold)
        fits = table >= threshold
        weights = fits + np.where(fits, table, 0) / (2 * max(table.shape))  # as StarDist does
        expected = linear_sum_assignment(-weights)
        assert (iou[chosen] >= threshold).all()
        assert len(chosen) == fits[expected].sum()
        assert iou[chosen].sum() == pytest.approx(table[expected][fits[expected]].sum())
