"""A dataset's images beside their cells, from both of its layouts."""

import cv2
import numpy as np
import pytest
from drawing import places, write_drawn_dataset

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.overlay import class_color
from cellseg_d2.report.dataset_grid import write_dataset_grid
from cellseg_d2.report.panels import lettering

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
        assert places(grid, lettering(text, 12)), text
    assert not places(grid, lettering("image1", 12))  # the two are spread over all


def test_of_a_converted_dataset_the_training_tiles_are_drawn_under_its_names(root, tmp_path):
    convert(root, tmp_path / "done", ConvertOptions(class_names=("tumour", "stroma"), val_fraction=0.25))
    grid = drawn(tmp_path / "done", tmp_path, samples=99)
    assert [outlines(grid, number) for number in range(2)] == [3 * 5 + 1, 3 * 4 + 1]
    assert places(grid, lettering("tumour: 15", 12))


def test_large_images_are_drawn_smaller(tmp_path):
    write_drawn_dataset(tmp_path / "raw", 1, side=1500, cells=4)
    grid = drawn(tmp_path / "raw", tmp_path)
    assert 2 * 1024 < grid.shape[1] < 2 * 1024 + 20


def test_names_that_are_not_as_many_as_the_classes_are_refused(root, tmp_path):
    with pytest.raises(CellSegError, match=r"class"):
        drawn(root, tmp_path, class_names=["one"])


def test_a_folder_of_neither_layout_is_named(tmp_path):
    with pytest.raises(CellSegError, match=r"train: there is no such folder"):
        drawn(tmp_path, tmp_path)
