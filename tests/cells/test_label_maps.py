"""What cells measure, against the usual way: one mask at a time."""

import numpy as np
import pytest
from drawing import LARGEST_ID, drawn, label_maps
from hypothesis import given
from scipy.ndimage import label

from cellseg_d2.cells.label_maps import count_parts, split_blobs
from cellseg_d2.cells.rle import column_runs

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def parts(mask):
    return label(mask, EIGHT_NEIGHBOURS)[1]


def holes(mask):
    """Parts of the rest, connected over sides only, less the one that reaches around everything."""
    return label(~np.pad(mask, 1))[1] - 1


@drawn
@given(label_maps())
def test_cells_measure_what_their_masks_measure(labels):
    ids, cells = column_runs(labels)
    blob_counts, hole_counts = count_parts(cells)
    assert ids.tolist() == np.unique(labels[labels > 0]).tolist()
    for number, cell in enumerate(ids):
        mask = labels == cell
        rows, columns = np.nonzero(mask)
        assert cells.areas[number] == len(rows)
        assert cells.boxes[number].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert blob_counts[number] == parts(mask)
        assert hole_counts[number] == holes(mask)


@pytest.mark.parametrize(
    ("rows", "blobs", "holes"),
    [
        (["11", "11"], 1, 0),
        (["1.", ".1"], 1, 0),
        (["1.1", "...", "1.1"], 4, 0),
        (["111", "1.1", "111"], 1, 1),
        (["1111", "1.11", "11.1", "1111"], 1, 2),
        ([".1.", "1.1", ".1."], 1, 1),
        (["11.11", "1...1", "11.11"], 2, 0),
        (["1"], 1, 0),
    ],
    ids=["square", "corner", "four", "ring", "holes at a corner", "ring of corners", "brackets", "one pixel"],
)
def test_parts_touch_at_corners_and_holes_do_not(rows, blobs, holes):
    labels = np.array([[9 if pixel == "1" else 0 for pixel in row] for row in rows], np.int32)
    assert [counts.tolist() for counts in count_parts(column_runs(labels)[1])] == [[blobs], [holes]]


def test_a_cell_inside_another_is_its_hole():
    labels = np.full((5, 5), 3, np.int32)
    labels[2, 2] = LARGEST_ID
    ids, cells = column_runs(labels)
    assert (ids.tolist(), count_parts(cells)[1].tolist()) == ([3, LARGEST_ID], [1, 0])


def test_nothing_measures_nothing():
    _, cells = column_runs(np.zeros((4, 7), np.int32))
    assert len(cells) == 0
    assert cells.boxes.shape == (0, 4)
    assert [counts.shape for counts in count_parts(cells)] == [(0,), (0,)]


@drawn
@given(label_maps())
def test_blobs_become_cells_of_one_part(labels):
    split = split_blobs(labels)
    assert np.array_equal(split > 0, labels > 0)
    ids, cells = column_runs(split)
    assert ids.tolist() == list(range(1, count_parts(column_runs(labels)[1])[0].sum() + 1))
    assert (count_parts(cells)[0] == 1).all()
    for cell in ids:
        assert len(np.unique(labels[split == cell])) == 1
    firsts = [labels.T[(split == cell).T][0] for cell in ids]
    places = [np.flatnonzero((split == cell).T)[0] for cell in ids]
    assert list(zip(firsts, places)) == sorted(zip(firsts, places))


def test_blobs_of_ids_that_wrap_become_the_parts_of_the_foreground():
    there = np.zeros((60, 80), bool)
    there[::3, ::4] = there[1::3, ::4] = True  # 400 cells apart from each other, and 8-bit ids
    parts_of_all, count = label(there, EIGHT_NEIGHBOURS)
    split = split_blobs(np.where(there, (parts_of_all - 1) % 255 + 1, 0).astype(np.int32))
    assert count == len(np.unique(split)) - 1 == split.max() == 400
    assert len({*zip(split.flat, parts_of_all.flat)}) == 401
