"""Cells drawn over their image."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.lettering import legend
from cellseg_d2.export.overlay import PALETTE, WIDEST, class_color, class_keys, draw_overlay, write_overlay

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


def overlay(folder, *arguments):
    """The overlay's file, as RGB."""
    write_overlay(folder / "overlays" / "a.png", *arguments)
    return cv2.imread(str(folder / "overlays" / "a.png"))[..., ::-1]


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


def test_classes_have_colours_of_their_own_until_they_repeat():
    colors = [tuple(class_color(number)) for number in range(len(PALETTE))]
    assert len(set(colors)) == len(PALETTE)
    assert tuple(class_color(len(PALETTE))) == colors[0]


def test_the_file_is_the_drawing_above_a_legend_that_counts_the_classes(tmp_path):
    image = np.tile(IMAGE, (3, 10, 1))
    cells = replace(squares((5, 8, 10, 1, 0.9), (20, 3, 7, 0, 0.5)), image_size=image.shape[:2])
    written = overlay(tmp_path, image, cells, ["round", "long"])
    assert np.array_equal(written[: len(image)], draw_overlay(image, cells))
    assert np.array_equal(written[len(image) :], legend(class_keys(["round", "long"], [1, 1]), image.shape[1]))
    assert np.array_equal(overlay(tmp_path, image, cells), draw_overlay(image, cells))  # no names, no legend


def test_a_wide_image_is_shown_smaller_with_all_of_its_cells(tmp_path):
    image = np.full((100, 2 * WIDEST, 3), 200, np.uint8)
    places = range(0, 2 * WIDEST, 200)
    cells = replace(squares(*((x, 40, 9, 0, 1) for x in places)), image_size=image.shape[:2])
    written = overlay(tmp_path, image, cells)
    assert written.shape == (50, WIDEST, 3)
    outlines = (written == class_color(0)).all(axis=2).astype(np.uint8)
    assert cv2.connectedComponents(outlines)[0] - 1 == len(places)


@pytest.mark.parametrize("factor", [0.5, 1.4, 3])
def test_in_another_size_cells_lie_where_they_were_and_outlines_are_as_wide(factor):
    image = np.zeros((100, 120, 3), np.uint8)
    cells = replace(squares((20, 30, 40, 2, 1)), image_size=(100, 120))
    size = (round(100 * factor), round(120 * factor))
    drawn = draw_overlay(image, cells, size=size, line=2, opacity=0)
    rows, columns = np.nonzero((drawn == class_color(2)).all(axis=2))
    assert [rows.min(), rows.max() + 1] == pytest.approx([30 * factor, 70 * factor], abs=1)
    assert [columns.min(), columns.max() + 1] == pytest.approx([20 * factor, 60 * factor], abs=1)
    line = (drawn[:, size[1] // 3] == class_color(2)).all(axis=1)
    assert line.sum() == 4


def test_no_cell_vanishes_in_a_small_picture():
    drawn = draw_overlay(IMAGE, squares((11, 13, 1, 0, 1)), size=(6, 8))
    assert (drawn == class_color(0)).all(axis=2).sum() == 1
