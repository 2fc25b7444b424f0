"""Images that are too large to be held in memory: what is written of them, and what memory that takes."""

import tracemalloc
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from drawing import discs, read_folder
from ground_truth_model import BlobModel

from cellseg_d2.config import get_cfg
from cellseg_d2.export.formats import LATER_FORMATS, ImageCells, write_image
from cellseg_d2.images import overview
from cellseg_d2.images.listing import list_images
from cellseg_d2.images.regions import BlockImage
from cellseg_d2.images.sources import tiff_source
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.from_results import Results, export_results
from cellseg_d2.inference.predictor import WholeImagePredictor

FORMATS = ("coco", "csv", "labels", "overlay")


def predictor():
    return WholeImagePredictor(BlobModel(), get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']"]))


@pytest.fixture
def images(tmp_path):
    """An image with bright discs."""
    (tmp_path / "images").mkdir()
    bright = discs(np.random.default_rng(0), 240, 320, 30, radius=9) > 0
    pixels = np.stack([bright * np.uint8(200), bright * np.uint8(150), bright * np.uint8(100)], axis=2)
    tifffile.imwrite(tmp_path / "images" / "slide.tif", pixels, photometric="rgb")
    return list_images(tmp_path / "images", None)


def test_large_images_have_intensities_as_any_other_and_a_smaller_overlay(images, tmp_path):
    small, large = Output(tmp_path / "small", FORMATS), Output(tmp_path / "large", FORMATS)
    predict_images(predictor(), images, small)
    with mock.patch.object(overview, "LARGEST_PICTURE", 20_000), mock.patch("cellseg_d2.export.overlay.WIDEST", 160):
        predict_images(predictor(), images, large)
        results = Results.read(large.folder)
        export_results(results, tmp_path / "later", ("csv", "overlay"), results.selection, images)
    table = pd.read_csv(large.folder / "csv" / "slide.csv")
    assert len(table) > 10
    assert (table["mean_red"] > table["mean_green"]).all() and (table["mean_green"] > table["mean_blue"]).all()
    one, other, later = map(read_folder, (small.folder, large.folder, tmp_path / "later"))
    assert {name for name in one if one[name] != other[name]} == {"overlays/slide.png"}
    assert all(other[name] == content for name, content in later.items() if name != "prediction.json")
    picture = cv2.imread(str(large.folder / "overlays" / "slide.png"))
    assert picture.shape[1] == 160 and picture.shape[0] > 120  # with the legend
    assert picture[:120].max() > 100


def test_memory_does_not_grow_with_the_image(tmp_path):
    side = 6000
    pixels = np.zeros((side, side, 3), np.uint8)
    for corner in range(100, side, 700):
        pixels[corner : corner + 40, corner : corner + 30] = 200
    tifffile.imwrite(tmp_path / "slide.tif", pixels, photometric="rgb", tile=(256, 256), compression="zlib")
    del pixels
    model, formats = predictor(), ("csv", "labels", "overlay", "geojson")
    with (
        BlockImage(tiff_source(tmp_path / "slide.tif"), "range:0,255", cache_bytes=2**22) as image,
        mock.patch.object(overview, "LARGEST_PICTURE", 2**21),
    ):
        tracemalloc.start()
        try:
            cells = model.confident(model.predict(image))
            write_image(ImageCells(tmp_path, "slide", cells, ["nucleus"], image), formats)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(cells) == len(range(100, side, 700))
    assert set(formats) < set(LATER_FORMATS)
    assert peak < 3 * side**2 / 2  # of its pixels
