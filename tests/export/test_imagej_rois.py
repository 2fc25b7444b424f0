"""ROIs of ImageJ and Fiji, read back with roifile."""

import struct
import zipfile

import numpy as np
import roifile
import shapely
from drawing import overlapping_masks, pycocotools_rle, written
from hypothesis import given

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.imagej_rois import write_roi_zip
from cellseg_d2.export.overlay import class_color

NAMES = ["Epithelial", "T cell/CD8", "Macrophage"]


def draw(roi, size):
    """(H, W) bool: the pixels whose centres lie inside an odd number of rings, as in Java's even-odd rule."""
    y, x = (side.ravel() for side in np.mgrid[: size[0], : size[1]] + 0.5)
    inside = np.zeros(x.size, bool)
    for ring in roi.coordinates(multi=True):
        inside ^= shapely.contains_xy(shapely.Polygon(ring), x, y)
    return inside.reshape(size)


def one_cell(mask, origin, size, label=0, score=0.5):
    return CellInstances(
        size,
        np.zeros((1, 4), np.float32),
        np.array([score], np.float32),
        np.array([label]),
        [mask],
        np.array([origin]),
    )


@written
@given(overlapping_masks(min_count=1))
def test_roifile_reads_each_mask_back(tmp_path_factory, masks):
    path = tmp_path_factory.mktemp("rois") / "a.zip"
    size, classes = masks[0].shape, np.arange(len(masks)) % 3
    cells = CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], classes, size)
    write_roi_zip(path, cells, NAMES)
    rois = roifile.roiread(path)
    assert len(rois) == len(masks)
    for roi, mask, (x0, y0, x1, y1), label in zip(rois, masks, cells.mask_boxes.tolist(), classes):
        assert np.array_equal(draw(roi, size), mask)
        assert (roi.left, roi.top, roi.right, roi.bottom) == (x0, y0, x1, y1)
        assert roi.stroke_color == bytes([255, *class_color(label)])


def test_a_plain_cell_is_a_traced_roi_of_whole_numbers(tmp_path):
    write_roi_zip(tmp_path / "a.zip", one_cell(np.ones((2, 3), bool), (5, 9), (50, 40), 1, 0.926), NAMES)
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert roi.roitype == roifile.ROI_TYPE.TRACED
    assert roi.coordinates().tolist() == [[5, 9], [8, 9], [8, 11], [5, 11]]
    assert roi.name == "0001_T cell_CD8_0.93"
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0001_T cell_CD8_0.93.roi"]


def test_holes_and_parts_are_a_composite_roi(tmp_path):
    mask = np.ones((3, 9), bool)
    mask[1, 1], mask[:, 4] = False, False
    write_roi_zip(tmp_path / "a.zip", one_cell(mask, (20, 30), (50, 40)), NAMES)
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert roi.composite and roi.roitype == roifile.ROI_TYPE.RECT
    rings = roi.coordinates(multi=True)
    assert len(rings) == 3
    assert all(np.array_equal(ring[0], ring[-1]) for ring in rings)  # closed, so that ImageJ draws the last line too
    drawn = np.zeros((50, 40), bool)
    drawn[30:33, 20:29] = mask
    assert np.array_equal(draw(roi, (50, 40)), drawn)


def test_far_cells_of_wide_images_keep_their_place(tmp_path):
    for name, origin in {"right": (90_000, 2), "low": (2, 70_001)}.items():
        write_roi_zip(tmp_path / f"{name}.zip", one_cell(np.ones((2, 3), bool), origin, (100_000, 100_000)), NAMES)
        (roi,) = roifile.roiread(tmp_path / f"{name}.zip")
        assert roi.coordinates().min(axis=0).tolist() == list(origin)
        assert (roi.coordinates().max(axis=0) - origin).tolist() == [3, 2]


def test_the_header_is_what_imagej_reads(tmp_path):
    write_roi_zip(tmp_path / "a.zip", one_cell(np.ones((2, 3), bool), (5, 9), (50, 40)), NAMES)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        data = archive.read(archive.namelist()[0])
    magic, version, kind, top, left, bottom, right, count = struct.unpack(">4shBxhhhhh", data[:18])
    assert (magic, kind, count) == (b"Iout", 8, 4)
    assert version >= 218  # from which on ImageJ reads the colour
    assert (left, top, right, bottom) == (5, 9, 8, 11)
    assert struct.unpack(">4h4h", data[64:80]) == (0, 3, 3, 0, 0, 0, 2, 2)


def test_an_image_without_cells_is_an_empty_archive(tmp_path):
    write_roi_zip(tmp_path / "a.zip", CellInstances.empty((4, 4)), NAMES)
    assert roifile.roiread(tmp_path / "a.zip") == []


def test_the_same_cells_make_the_same_archive(tmp_path):
    cells = one_cell(np.eye(6, dtype=bool), (0, 0), (6, 6))
    for name in ("a.zip", "b.zip"):
        write_roi_zip(tmp_path / name, cells, NAMES)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
