"""Cells drawn over their image."""

import cv2
import numpy as np
import pytest

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.overlay import PALETTE, class_color, draw_crosses, draw_grid, draw_overlay, write_overlay

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def squares(*cells):
    """CellInstances of full squares: (x, y, side, class, score) rows."""
    boxes = np.array([(x, y, x + side, y + side) for x, y, side, _, _ in cells], np.float32)
    return CellInstances(
        IMAGE.shape[:2],
        boxes.reshape(-1, 4),
        np.array([cell[4] for cell in cells], np.float32),
        np.array([cell[3] for cell in cells], np.int64),
        [np.ones((cell[2], cell[2]), bool) for cell in cells],
        np.array([cell[:2] for cell in cells], np.int64).reshape(-1, 2),
    )


def test_cells_are_filled_and_outlined_in_their_class_colour_and_nothing_else_is_touched():
    before = IMAGE.copy()
    drawn = draw_overlay(IMAGE, squares((5, 8, 10, 1, 0.9)), opacity=0.5)
    assert np.array_equal(IMAGE, before)
    cell, inside = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    cell[8:18, 5:15], inside[9:17, 6:14] = True, True
    assert np.array_equal(drawn[~cell], IMAGE[~cell])
    assert (drawn[cell & ~inside] == class_color(1)).all()
    assert np.abs(drawn[inside] - (0.5 * IMAGE[inside] + 0.5 * class_color(1))).max() <= 0.5


def test_no_cell_leaves_the_image():
    assert np.array_equal(draw_overlay(IMAGE, CellInstances.empty((30, 40))), IMAGE)


def test_the_better_cell_lies_on_top_whatever_the_order():
    low, high = (5, 5, 10, 0, 0.2), (10, 10, 10, 1, 0.8)
    for cells in (squares(low, high), squares(high, low)):
        drawn = draw_overlay(IMAGE, cells)
        assert (drawn[10, 10:15] == class_color(1)).all()
        assert (drawn[5, 5:15] == class_color(0)).all()


@pytest.mark.parametrize(("x", "y", "side"), [(0, 0, 12), (28, 18, 12), (3, 3, 1), (0, 0, 30)])
def test_cells_at_the_edge_are_outlined_all_round(x, y, side):
    drawn = draw_overlay(IMAGE, squares((x, y, side, 2, 1)), opacity=0)
    for edge in (drawn[y, x : x + side], drawn[y + side - 1, x : x + side], drawn[y : y + side, x]):
        assert (edge == class_color(2)).all()


@pytest.mark.parametrize(("x", "y", "side"), [(5, 8, 15), (0, 0, 3), (38, 28, 2), (10, 5, 1)])
def test_a_cross_lies_on_the_middle_of_its_cell_and_changes_nothing_far_from_it(x, y, side):
    before = IMAGE.copy()
    marked = draw_crosses(IMAGE, squares((x, y, side, 0, 1)))
    assert np.array_equal(IMAGE, before)
    middle = y + (side - 1) // 2, x + (side - 1) // 2
    assert (marked[middle] == 255).all()
    rows, columns = np.nonzero((marked != IMAGE).any(axis=2))
    reach = max(3, 0.6 * side / 2) + 2
    assert np.abs(rows - middle[0]).max() <= reach
    assert np.abs(columns - middle[1]).max() <= reach
    changed = marked[rows, columns]
    assert ((changed == 0).all(axis=1) | (changed == 255).all(axis=1)).all()


def test_in_a_smaller_picture_a_cross_lies_on_the_same_cell_and_is_not_smaller_than_it_may_be():
    small = IMAGE[::2, ::2]
    rows, columns = np.nonzero((draw_crosses(small, squares((20, 12, 6, 0, 1)), 0.5) != small).any(axis=2))
    assert (np.median(rows), np.median(columns)) == pytest.approx((7, 11), abs=1)
    assert np.ptp(rows) >= 6 and np.ptp(columns) >= 6


def test_a_cross_lies_on_a_cell_that_is_bent_round_its_centroid():
    mask = np.ones((20, 20), bool)
    mask[5:, 5:] = False
    ring = squares((10, 5, 20, 0, 1))
    bent = CellInstances(ring.image_size, ring.boxes, ring.scores, ring.classes, [mask], ring.origins)
    white = (draw_crosses(IMAGE, bent) == 255).all(axis=2) & (IMAGE < 255).any(axis=2)
    y, x = np.argwhere(white).mean(axis=0)
    assert mask[round(y) - 5, round(x) - 10]


def test_classes_have_colours_of_their_own_until_they_repeat():
    colors = [tuple(class_color(number)) for number in range(len(PALETTE))]
    assert len(set(colors)) == len(PALETTE)
    assert tuple(class_color(len(PALETTE))) == colors[0]


def test_the_file_is_the_drawing(tmp_path):
    cells = squares((5, 8, 10, 1, 0.9), (20, 3, 7, 0, 0.5))
    write_overlay(tmp_path / "overlays" / "a.png", IMAGE, cells)
    written = cv2.imread(str(tmp_path / "overlays" / "a.png"))[..., ::-1]
    assert np.array_equal(written, draw_overlay(IMAGE, cells))


def test_a_grid_holds_every_image_on_white():
    images = [np.full((height, 10, 3), number, np.uint8) for number, height in enumerate((8, 5, 9), start=1)]
    grid = draw_grid(images, columns=2, gap=3)
    assert grid.shape == (2 * (9 + 3) + 3, 2 * (10 + 3) + 3, 3)
    for number, (y, x) in enumerate(((3, 3), (3, 16), (15, 3)), start=1):
        assert (grid[y : y + images[number - 1].shape[0], x : x + 10] == number).all()
    assert np.count_nonzero((grid < 255).all(axis=2)) == 10 * (8 + 5 + 9)


def test_a_grid_is_no_wider_than_its_images_and_needs_one():
    assert draw_grid([IMAGE], columns=5, gap=1).shape == (32, 42, 3)
    with pytest.raises(ValueError, match=r"a grid needs at least one image"):
        draw_grid([], columns=2)
