"""Rings on missed cells and crosses on spurious ones."""

import cv2
import numpy as np
import pytest

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.marks import ARMS, MISSED, SPURIOUS, draw_marks, mark_path, mark_swatch
from cellseg_d2.export.overlay import PALETTE

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
KINDS = (MISSED, SPURIOUS)


def cell(mask, x, y):
    """One cell of the image."""
    box = np.array([[x, y, x + mask.shape[1], y + mask.shape[0]]], np.float32)
    return CellInstances(
        IMAGE.shape[:2], box, np.ones(1, np.float32), np.zeros(1, np.int64), [mask], np.array([[x, y]])
    )


def square(x, y, side):
    return cell(np.ones((side, side), bool), x, y)


def changed(before, after):
    """Rows and columns of the pixels that a mark covers."""
    return np.nonzero((before != after).any(axis=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("x", "y", "side"), [(5, 8, 61), (0, 0, 3), (118, 88, 2), (30, 15, 1)])
def test_a_mark_lies_on_the_middle_of_its_cell_and_changes_nothing_far_from_it(x, y, side, kind):
    before = IMAGE.copy()
    marked = draw_marks(IMAGE, square(x, y, side), kind)
    assert np.array_equal(IMAGE, before)
    rows, columns = changed(IMAGE, marked)
    reach = 1.3 * max(ARMS[0], 0.6 * side / 2) + 4  # with half of the stroke, and its edge
    assert np.abs(rows - (y + side / 2)).max() <= reach
    assert np.abs(columns - (x + side / 2)).max() <= reach
    mark = draw_marks(np.full_like(IMAGE, 128), square(x, y, side), kind)[rows, columns]
    assert mark.min() < 32 and mark.max() > 223


def test_the_two_marks_differ_in_the_middle_and_no_class_has_their_colours():
    ring, cross = (draw_marks(np.full_like(IMAGE, 90), square(20, 10, 61), kind) for kind in KINDS)
    assert (ring[40, 50] == 90).all() and (cross[40, 50] == 255).all()
    spread = PALETTE.astype(int)
    assert (spread.max(axis=1) - spread.min(axis=1)).min() > 60  # marks are white and black
    assert not np.array_equal(mark_swatch(MISSED), mark_swatch(SPURIOUS))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_smaller_picture_a_mark_lies_on_the_same_cell_and_is_seen(kind):
    small = np.ascontiguousarray(IMAGE[::2, ::2])
    rows, columns = changed(small, draw_marks(small, square(60, 32, 6), kind, 0.5))
    assert ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2) == pytest.approx((17, 31), abs=1)
    assert np.ptp(rows) >= 2 * ARMS[0] and np.ptp(columns) >= 2 * ARMS[0]


def test_a_mark_lies_on_a_cell_that_is_bent_round_its_centroid():
    mask = np.ones((60, 60), bool)
    mask[15:, 15:] = False
    rows, columns = changed(IMAGE, draw_marks(IMAGE, cell(mask, 30, 15), SPURIOUS))
    assert mask[round(rows.mean()) - 15, round(columns.mean()) - 30]


@pytest.mark.parametrize(("kind", "covered"), [(MISSED, False), (SPURIOUS, True)])
def test_on_a_page_a_mark_has_the_same_shape(kind, covered):
    numbers = mark_path(kind, 50, 40, 20)
    assert "nan" not in numbers and numbers.count("M") == numbers.count("z") == (1 if covered else 2)
    if covered:
        points = np.array([pair.split() for pair in numbers.strip("Mz").split("L")], float)
        assert points.min(axis=0) == pytest.approx([30, 20], abs=3) and points.max(axis=0) == pytest.approx(
            [70, 60], abs=3
        )
        inside = cv2.pointPolygonTest(points.astype(np.float32), (50, 40), False)
        assert inside == 1
