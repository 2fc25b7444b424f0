"""Slices of a page of tiles are those of the decoded page, whatever the compression; other layouts are left to zarr."""

import numpy as np
import pytest
import tifffile
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st
from image_layouts import LAYOUTS, RGB, TILES, by_windows

from cellseg_d2.images.sources import tiff_source
from cellseg_d2.images.tiff_tiles import TiledPage

PAGES = [name for name, (_, options) in LAYOUTS.items() if "tile" in options]


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_tiles_are_decoded_here_and_others_by_zarr(name, tmp_path):
    pixels, options = LAYOUTS[name]
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    with by_windows():
        source = tiff_source(tmp_path / "image.tif")
    with source.open_files:
        stacked = name in ("tiles, planar", "tiles, OME CYX")
        assert isinstance(source.array, TiledPage) != stacked


@drawn
@given(st.data())
def test_slices_are_those_of_the_page(tmp_path_factory, data):
    pixels, options = LAYOUTS[data.draw(st.sampled_from(PAGES))]
    path = tmp_path_factory.mktemp("tiles") / "image.tif"
    tifffile.imwrite(path, pixels, **options)
    with tifffile.TiffFile(path) as file:
        if not TiledPage.fits(file.series[0]):
            return
        whole, page = file.pages[0].asarray(), TiledPage(file.pages[0])
        assert page.shape == whole.shape
        for _ in range(3):
            (y0, y1), (x0, x1) = (
                sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True)))
                for side in whole.shape[:2]
            )
            assert np.array_equal(page[slice(y0, y1), slice(x0, x1)], whole[y0:y1, x0:x1])


def test_samples_can_be_chosen(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", **TILES)
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        page = TiledPage(file.pages[0])
        assert np.array_equal(page[slice(3, 60), slice(30, 70), slice(1, 2)], RGB[3:60, 30:70, 1:2])
