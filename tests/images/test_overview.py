"""Small images are shown as they are, large ones as means of squares, whatever parts they are read in."""

import numpy as np
import pytest
import tifffile
from image_layouts import RGB, TILES, by_windows

from cellseg_d2.images import overview as module
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.overview import overview
from cellseg_d2.images.regions import WholeImage


@pytest.fixture
def image(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", **TILES)
    with by_windows(), open_image(tmp_path / "image.tif") as opened:
        yield opened


def test_a_small_image_is_shown_as_it_is(image):
    assert np.array_equal(overview(image, width=10), RGB)


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_a_large_image_is_shown_as_means(image, block, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PICTURE", 5000)  # of 75 x 109
    monkeypatch.setattr(module, "BLOCK_SIDE", block)
    picture = overview(image, width=30)
    assert picture.shape == (25, 37, 3)  # 109 // 30 pixels become one, and what is left over one more
    means = RGB[:75, :108].reshape(25, 3, 36, 3, 3).mean(axis=(1, 3))
    assert np.abs(picture[:, :36].astype(float) - means).max() <= 0.51
    assert np.abs(picture[:, 36].astype(float) - RGB[:, 108].reshape(25, 3, 3).mean(axis=1)).max() <= 0.51


def test_a_tall_image_stays_below_the_limit(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PICTURE", 1000)
    height, width, channels = overview(WholeImage(np.zeros((999, 20, 3), np.uint8)), width=20).shape
    assert (channels, width) == (3, 4) and height * width <= 1000
