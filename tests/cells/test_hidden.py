"""The rule of cells that better ones hide, against painting all of them one after the other."""

import numpy as np
import pytest
from drawing import drawn, overlapping_masks, pycocotools_rle
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.hidden import MOST_COVERED, SAME_IOU, hidden, visible
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import get_cfg


def cells_of(masks, scores, classes=None):
    classes = [0] * len(masks) if classes is None else classes
    return CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, masks[0].shape, scores)


def bar(start, stop, length=40):
    mask = np.zeros((2, length), bool)
    mask[:, start:stop] = True
    return mask


@pytest.mark.parametrize(
    ("masks", "scores", "expected"),
    [
        ([bar(0, 10), bar(0, 10)], [0.6, 0.9], [True, False]),
        ([bar(0, 10), bar(0, 10)], [0.6, 0.6], [False, True]),
        ([bar(2, 4), bar(0, 10)], [0.6, 0.9], [True, False]),  # wholly inside, IoU 0.2
        ([bar(2, 4), bar(0, 10)], [0.9, 0.6], [False, False]),  # the large one keeps most of itself
        ([bar(4, 14), bar(0, 9), bar(10, 20)], [0.5, 0.9, 0.8], [True, False, False]),  # half by one, more by two
        ([bar(5, 15), bar(0, 10)], [0.5, 0.9], [False, False]),  # half, no more
        ([bar(0, 10), bar(3, 13), bar(6, 16)], [0.9, 0.8, 0.7], [False, True, False]),  # what is gone hides nothing
        ([bar(0, 10), bar(10, 20)], [0.9, 0.8], [False, False]),
    ],
)
def test_a_cell_is_hidden_by_one_that_is_the_same_or_by_all_that_cover_it(masks, scores, expected):
    assert hidden(cells_of(masks, scores)).tolist() == expected


def test_classes_make_no_difference_and_no_cells_are_none_hidden():
    assert hidden(cells_of([bar(0, 10), bar(1, 10)], [0.6, 0.9], [0, 1])).tolist() == [True, False]
    assert hidden(CellInstances.empty((3, 3))).tolist() == []


@drawn
@given(
    overlapping_masks(min_count=1), st.sampled_from([0.2, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.data()
)
def test_it_is_what_painting_from_the_best_down_leaves(masks, iou, most_covered, data):
    scores = data.draw(st.lists(st.sampled_from([0.2, 0.4, 0.9]), min_size=len(masks), max_size=len(masks)))
    cells = cells_of(masks, scores)
    painted, kept = np.zeros(masks[0].shape, bool), []
    for number in sorted(range(len(masks)), key=lambda number: (-scores[number], number)):
        mask = masks[number]
        same = any((mask & masks[other]).sum() > iou * (mask | masks[other]).sum() for other in kept)
        if not same and (mask & painted).sum() <= most_covered * mask.sum():
            painted |= mask
            kept.append(number)
    assert np.flatnonzero(~hidden(cells, iou, most_covered)).tolist() == sorted(kept)


@drawn
@given(overlapping_masks(min_count=1), st.data())
def test_a_threshold_before_or_after_leaves_the_same_and_what_is_left_is_all_seen(masks, data):
    scores = data.draw(st.lists(st.sampled_from([0.2, 0.4, 0.9]), min_size=len(masks), max_size=len(masks)))
    cells = cells_of(masks, scores)
    after = visible(cells)
    assert not hidden(after).any()
    before = visible(cells[cells.scores >= 0.3])
    assert before.origins.tolist() == after[after.scores >= 0.3].origins.tolist()
    labels = np.zeros(masks[0].shape, int)
    for number in after.ranking[::-1]:
        x0, y0, x1, y1 = after.mask_boxes[number]
        labels[y0:y1, x0:x1][after.masks[number]] = number + 1
    left = np.bincount(labels.ravel(), minlength=len(after) + 1)[1:]
    assert (left >= (1 - MOST_COVERED) * after.areas).all()


def test_a_config_says_the_same_as_evaluation_which_has_none():
    options = get_cfg().CELLSEG.INFERENCE
    assert (options.SUPPRESSION_IOU, options.SUPPRESSION_COVERED) == (SAME_IOU, MOST_COVERED)
