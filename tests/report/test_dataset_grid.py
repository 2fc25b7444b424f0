"""A dataset's images beside their cells, from both of its layouts."""

import cv2
import numpy as np
import pytest
from drawing import places, write_drawn_dataset, write_sample

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.lettering import lettering
from cellseg_d2.export.overlay import WIDEST, class_color
from cellseg_d2.report.dataset_grid import write_dataset_grid

CELLS, IMAGES = 9, 4


@pytest.fixture
def root(tmp_path):
    write_drawn_dataset(tmp_path / "raw", IMAGES, side=240, cells=CELLS)
    return tmp_path / "raw"


def drawn(source, folder, **options):
    write_dataset_grid(source, folder / "pictures" / "grid.png", **options)
    return cv2.imread(str(folder / "pictures" / "grid.png"))[..., ::-1]


def outlines(grid, number):
    """How many outlines of a class's colour there are; the legend's square counts too."""
    return cv2.connectedComponents((grid == class_color(number)).all(axis=2).astype(np.uint8))[0] - 1


def test_every_cell_is_drawn_in_the_colour_that_the_legend_names_and_counts(root, tmp_path):
    grid = drawn(root, tmp_path, samples=2, class_names=["tumour", "stroma"])
    assert [outlines(grid, number) for number in range(3)] == [2 * 5 + 1, 2 * 4 + 1, 0]
    for text in ("tumour: 10", "stroma: 8", "9 cells", "image0", f"image{IMAGES - 1}"):
        assert places(grid, lettering(text)), text
    assert not places(grid, lettering("image1"))  # the two are spread over all


def test_of_a_converted_dataset_the_training_tiles_are_drawn_under_its_names(root, tmp_path):
    convert(root, tmp_path / "done", ConvertOptions(class_names=("tumour", "stroma"), val_fraction=0.25))
    grid = drawn(tmp_path / "done", tmp_path, samples=99)
    assert [outlines(grid, number) for number in range(2)] == [3 * 5 + 1, 3 * 4 + 1]
    assert places(grid, lettering("tumour: 15"))


def test_large_images_are_drawn_smaller(tmp_path):
    write_drawn_dataset(tmp_path / "raw", 3, side=1500, cells=4)
    assert drawn(tmp_path / "raw", tmp_path, samples=1).shape[1] < WIDEST
    assert drawn(tmp_path / "raw", tmp_path, samples=3).shape[1] == WIDEST


def test_a_class_without_cells_and_an_image_without_cells_are_said(tmp_path):
    image = np.full((40, 60, 3), 200, np.uint8)
    nothing = np.zeros((40, 60), np.uint8)
    cell = nothing.copy()
    cell[5:20, 5:20] = 1
    write_sample(tmp_path / "raw", "a", image, {1: cell, 2: nothing})
    write_sample(tmp_path / "raw", "b", image, {1: nothing, 2: nothing})
    grid = drawn(tmp_path / "raw", tmp_path, class_names=["long", "round"])
    for text in ("long: 1", "round: 0", "1 cell", "no cells"):
        assert places(grid, lettering(text)), text


def test_names_that_are_not_as_many_as_the_classes_are_refused(root, tmp_path):
    with pytest.raises(CellSegError, match=r"class"):
        drawn(root, tmp_path, class_names=["one"])


def test_a_folder_of_neither_layout_is_named(tmp_path):
    with pytest.raises(CellSegError, match=r"train: there is no such folder"):
        drawn(tmp_path, tmp_path)
