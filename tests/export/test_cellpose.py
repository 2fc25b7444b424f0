"""Cellpose's files, read with numpy, OpenCV and tifffile, as Cellpose reads them."""

import cv2
import numpy as np
import tifffile
from drawing import discs, pycocotools_rle
from skimage.segmentation import find_boundaries

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.cellpose import write_cellpose
from cellseg_d2.export.formats import ImageCells, write_image
from cellseg_d2.export.label_tiff import write_label_maps

NAMES = ["small", "T cell: CD8/CD4"]
FOLDERS = ["small", "T cell_ CD8_CD4"]


def overlapping(size=(40, 50)):
    """Discs that grow by some pixels into each other; scores fall, and classes take turns."""
    labels = discs(np.random.default_rng(1), *size, 12)
    masks = [cv2.dilate((labels == label).astype(np.uint8), np.ones((5, 5))) > 0 for label in np.unique(labels)[1:]]
    scores = np.linspace(0.9, 0.5, len(masks))
    return CellInstances.from_rles(list(map(pycocotools_rle, masks)), np.arange(len(masks)) % 2, size, scores)


def test_masks_are_the_label_maps_of_the_classes(tmp_path):
    cells = overlapping()
    write_cellpose(tmp_path / "cellpose", "plate/x.ome", "plate/x.ome.tif", cells, NAMES)
    write_label_maps(tmp_path / "labels", cells, NAMES)
    for number, folder in enumerate(FOLDERS, start=1):
        expected = tifffile.imread(tmp_path / "labels" / f"class{number}.tif")
        base = tmp_path / "cellpose" / folder / "plate"
        masks = cv2.imread(str(base / "x.ome_cp_masks.png"), cv2.IMREAD_UNCHANGED)
        assert masks.dtype == np.uint16
        assert np.array_equal(masks, expected)
        seg = np.load(base / "x.ome_seg.npy", allow_pickle=True).item()
        assert np.array_equal(seg["masks"], expected)
        assert np.array_equal(seg["outlines"], expected * find_boundaries(expected, mode="inner"))
        assert seg["filename"] == "x.ome.tif"
        assert len(seg["ismanual"]) == expected.max()
    assert {path.name for path in (tmp_path / "cellpose").iterdir()} == set(FOLDERS)


def test_many_cells_are_a_tiff(tmp_path):
    places = np.arange(65_536)
    cells = CellInstances(
        (256, 257),
        np.zeros((len(places), 4), np.float32),
        np.ones(len(places), np.float32),
        places * 0,
        [np.ones((1, 1), bool)] * len(places),
        np.stack([places % 257, places // 257], axis=1),
    )
    write_cellpose(tmp_path, "x", "x.tif", cells, ["a"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x_cp_masks.tif", "x_seg.npy"]
    assert tifffile.imread(tmp_path / "a" / "x_cp_masks.tif").max() == 65_536


def test_an_image_without_cells_is_background(tmp_path):
    write_cellpose(tmp_path, "x", "x.tif", CellInstances.empty((4, 5)), ["a"])
    seg = np.load(tmp_path / "a" / "x_seg.npy", allow_pickle=True).item()
    assert np.array_equal(seg["masks"], np.zeros((4, 5)))
    assert not cv2.imread(str(tmp_path / "a" / "x_cp_masks.png"), cv2.IMREAD_UNCHANGED).any()


def test_the_same_cells_make_the_same_files(tmp_path):
    for name in ("one", "two"):
        write_cellpose(tmp_path / name, "x", "x.tif", overlapping(), ["a", "b"])
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_images_too_large_for_memory_are_left_out_with_a_warning(tmp_path, caplog):
    cells = CellInstances.empty((20_000, 20_000))
    write_image(ImageCells(tmp_path, "slide", cells, NAMES, file_name="slide.tif"), ["cellpose"])
    assert not list(tmp_path.iterdir())
    assert "slide.tif: is too large for Cellpose's files; take labels" in caplog.text
