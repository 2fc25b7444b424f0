import numpy as np
import pytest
from drawing import drawn, overlapping_masks
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.selection import METHODS, suppress


def _cells(masks, scores, classes=None):
    full = [np.asarray(mask, bool) for mask in masks]
    count = len(full)
    return CellInstances(
        full[0].shape,
        np.zeros((count, 4), np.float32),
        np.array(scores, np.float32),
        np.zeros(count, np.int64) if classes is None else np.array(classes),
        full,
        np.zeros((count, 2), np.int64),
    ).trimmed()


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


def _bar(start, stop, length=40):
    mask = np.zeros((2, length), bool)
    mask[:, start:stop] = True
    return mask


def test_one_nucleus_is_not_two_classes():
    cells = _cells([_bar(0, 10), _bar(1, 10), _bar(20, 30)], [0.6, 0.9, 0.3], [0, 1, 0])
    left = suppress(cells, method="hard", iou=0.5)
    assert left.classes.tolist() == [1, 0]
    assert left.scores.tolist() == pytest.approx([0.9, 0.3])


def test_touching_cells_stay():
    """Two triangles of one square: their boxes are the same, their masks share the diagonal."""
    lower = np.tri(12, dtype=bool)
    cells = _cells([lower, lower.T], [0.9, 0.8])
    assert len(suppress(cells, method="hard", iou=0.5)) == 2
    assert suppress(cells, method="soft", iou=0.5).scores.tolist() == pytest.approx([0.9, 0.8])


def test_soft_lowers_the_second_guess():
    cells = _cells([_bar(0, 10), _bar(0, 8)], [0.5, 0.9])  # IoU 0.8
    assert suppress(cells, method="soft", iou=0.5).scores.tolist() == pytest.approx([0.5 * 0.2, 0.9])


def test_soft_goes_by_the_scores_as_they_have_become():
    """The second loses so much to the first that the third comes before it, and lowers it again."""
    cells = _cells([_bar(0, 10), _bar(1, 11), _bar(3, 13)], [0.9, 0.8, 0.5])
    first_second, second_third = 9 / 11, 8 / 12
    lowered = 0.8 * (1 - first_second)
    expected = [0.9, lowered * (1 - second_third), 0.5 * (1 - 7 / 13)]
    assert lowered < expected[2]
    assert suppress(cells, method="soft", iou=0.5).scores.tolist() == pytest.approx(expected)


@drawn
@given(overlapping_masks(min_count=1), st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 99))
def test_no_two_that_are_left_overlap_and_each_that_went_had_a_better_one(masks, iou, seed):
    scores = np.random.default_rng(seed).permutation(len(masks)) / 10 + 0.1
    cells = _cells(masks, scores)
    left = suppress(cells, method="hard", iou=iou)
    numbers = [int(np.flatnonzero(np.isclose(scores, score))[0]) for score in left.scores]
    assert numbers == sorted(numbers)
    assert all(_iou(masks[a], masks[b]) <= iou for a in numbers for b in numbers if a < b)
    for number in set(range(len(masks))) - set(numbers):
        assert any(_iou(masks[number], masks[own]) > iou and scores[own] > scores[number] for own in numbers)
    soft = suppress(cells, method="soft", iou=iou)
    assert len(soft) == len(cells)
    assert (soft.scores <= cells.scores).all()
    assert soft.scores.max() == cells.scores.max()


def test_methods_are_named():
    with pytest.raises(ValueError, match="hard"):
        suppress(CellInstances.empty((3, 3)), method="gentle", iou=0.5)
    for method in METHODS:
        assert len(suppress(CellInstances.empty((3, 3)), method=method, iou=0.5)) == 0
    cells = _cells([_bar(0, 10), _bar(0, 10)], [0.5, 0.9])
    assert suppress(cells, method="none", iou=0.5) is cells
