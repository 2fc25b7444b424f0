"""Label maps as TIFF, read back with tifffile and as training data."""

import numpy as np
import pytest
import tifffile
from drawing import overlapping_masks, pycocotools_rle, written
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export import label_tiff
from cellseg_d2.export.label_tiff import JOINT_FILE, write_label_maps
from cellseg_d2.images.tiff import read_label_map

NAMES = ["a", "b"]


def pixels(count, size, scores=None):
    """Cells of one pixel each, row by row."""
    places = np.arange(count)
    return CellInstances(
        size,
        np.zeros((count, 4), np.float32),
        np.ones(count, np.float32) if scores is None else np.array(scores, np.float32),
        places % 2,
        [np.ones((1, 1), bool)] * count,
        np.stack([places % size[1], places // size[1]], axis=1),
    )


def painted(masks, scores, chosen):
    """The label map, one full frame a cell."""
    labels = np.zeros(masks[0].shape, np.int64)
    for number in sorted(chosen, key=lambda number: (scores[number], -number)):
        labels[masks[number]] = number + 1
    return labels


@pytest.mark.parametrize("tiled", [False, True])
@written
@given(masks=overlapping_masks(max_side=40, min_count=1), data=st.data())
def test_tifffile_reads_the_ids_back(tmp_path_factory, tiled, masks, data):
    folder = tmp_path_factory.mktemp("labels") / "new"
    scores = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1]), min_size=len(masks), max_size=len(masks)))
    classes = data.draw(st.lists(st.integers(0, 1), min_size=len(masks), max_size=len(masks)))
    cells = CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, masks[0].shape, scores)
    with pytest.MonkeyPatch.context() as patch:
        if tiled:
            patch.setattr(label_tiff, "TILE", 16)
            patch.setattr(label_tiff, "UNTILED_SIDE", 0)
        write_label_maps(folder, cells, NAMES)
    chosen = {JOINT_FILE: range(len(masks))}
    chosen |= {f"class{label + 1}.tif": np.flatnonzero(np.array(classes) == label) for label in (0, 1)}
    assert {path.name for path in folder.iterdir()} == set(chosen)
    for name, numbers in chosen.items():
        expected = painted(masks, scores, numbers)
        assert np.array_equal(tifffile.imread(folder / name), expected)
        assert np.array_equal(read_label_map(folder / name), expected)
        with tifffile.TiffFile(folder / name) as file:
            assert file.pages[0].is_tiled == tiled


def test_the_better_cell_lies_on_top_and_of_equal_ones_the_first(tmp_path):
    for scores, expected in {(0.9, 0.1): 1, (0.1, 0.9): 2, (0.5, 0.5): 1}.items():
        cells = CellInstances(
            (3, 3),
            np.zeros((2, 4), np.float32),
            np.array(scores, np.float32),
            np.array([0, 1]),
            [np.ones((2, 2), bool)] * 2,
            np.array([[0, 0], [1, 1]]),
        )
        write_label_maps(tmp_path, cells, NAMES)
        assert tifffile.imread(tmp_path / JOINT_FILE)[1, 1] == expected
        assert tifffile.imread(tmp_path / "class1.tif")[1, 1] == 1
        assert tifffile.imread(tmp_path / "class2.tif")[1, 1] == 2


@pytest.mark.parametrize(("count", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_ids_are_as_wide_as_they_need_to_be(tmp_path, count, dtype):
    write_label_maps(tmp_path, pixels(count, (256, 257)), NAMES)
    read = tifffile.imread(tmp_path / JOINT_FILE)
    assert read.dtype == dtype
    assert np.array_equal(np.unique(read)[1:], np.arange(1, count + 1))
    assert tifffile.imread(tmp_path / "class2.tif").max() == count - count % 2


def test_large_images_are_tiled_and_compressed(tmp_path):
    write_label_maps(tmp_path, pixels(5000, (2500, 2100)), ["a"])
    with tifffile.TiffFile(tmp_path / JOINT_FILE) as file:
        page = file.pages[0]
        assert page.tile == (512, 512)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        assert not file.is_bigtiff
        assert "XResolution" not in page.tags or page.resolution == (1, 1)
    assert (tmp_path / JOINT_FILE).stat().st_size < 100_000
    assert len(np.unique(read_label_map(tmp_path / JOINT_FILE))) == 5001


def test_files_that_may_pass_4_gb_are_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(label_tiff, "CLASSIC_BYTES", 2 * 2100 * 600 - 1)
    write_label_maps(tmp_path, pixels(5000, (600, 2100)), ["a"])
    with tifffile.TiffFile(tmp_path / JOINT_FILE) as file:
        assert file.is_bigtiff
    assert len(np.unique(read_label_map(tmp_path / JOINT_FILE))) == 5001


@pytest.mark.parametrize("size", [(30, 40), (30, 2100)])
def test_the_pixel_size_is_written(tmp_path, size):
    write_label_maps(tmp_path, pixels(3, size), NAMES, (0.25, 0.5))
    for name in (JOINT_FILE, "class1.tif"):
        with tifffile.TiffFile(tmp_path / name) as file:
            page = file.pages[0]
            assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
            assert page.resolution == (40_000, 20_000)


def test_an_image_without_cells_is_background(tmp_path):
    write_label_maps(tmp_path, CellInstances.empty((5, 3)), NAMES)
    for name in (JOINT_FILE, "class1.tif", "class2.tif"):
        assert np.array_equal(read_label_map(tmp_path / name), np.zeros((5, 3)))
