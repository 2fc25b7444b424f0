"""Dark images are brightened for people, others are left alone."""

import numpy as np
import pytest

from cellseg_d2.export.contrast import DARK, LEAST_RANGE, stretched


def fluorescence(peak, background=3):
    """Cells of some brightness on a tenth of a dark image."""
    image = np.random.default_rng(0).integers(background, background + 3, (120, 100, 3), dtype=np.uint8)
    image[10:30, 10:70] = np.linspace(peak // 2, peak, 60).astype(np.uint8)[None, :, None]
    return image


def test_a_dark_image_fills_the_range_and_keeps_its_order():
    image = fluorescence(40)
    before = image.copy()
    shown = stretched(image)
    assert np.array_equal(image, before)
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    assert np.percentile(shown, 50) < 32  # the background stays dark
    assert (np.diff(shown[20, 10:70, 0].astype(int)) >= 0).all()
    assert np.array_equal(stretched(shown), shown)


def test_single_bright_pixels_do_not_keep_cells_dark():
    image = fluorescence(40)
    image[100, 50] = 255
    assert stretched(image)[20, 69].min() > 240


@pytest.mark.parametrize("level", [DARK, 128, 230])
def test_other_images_are_as_they_are(level):
    image = np.random.default_rng(0).integers(level, level + 20, (30, 40, 3), dtype=np.uint8)
    assert np.array_equal(stretched(image), image)


def test_an_empty_dark_image_does_not_become_noise():
    shown = stretched(fluorescence(0)[40:])
    assert shown.max() <= 3 * 255 / LEAST_RANGE
    assert np.array_equal(stretched(np.zeros((5, 6, 3), np.uint8)), np.zeros((5, 6, 3), np.uint8))


def test_channels_keep_their_balance():
    image = fluorescence(40)
    image[..., 1] //= 2
    cell = stretched(image)[20, 69].astype(int)
    assert cell[0] == cell[2] and 100 < cell[1] < 155


def test_a_darkened_copy_of_a_bright_image_stays_dark():
    image = np.random.default_rng(0).integers(100, 200, (30, 40, 3), dtype=np.uint8)
    assert np.array_equal(stretched(image // 4, image), image // 4)


def test_a_copy_is_stretched_as_its_original():
    image = fluorescence(40)
    darker = image // 2
    assert stretched(darker, image).mean() < 0.7 * stretched(image).mean()
    assert stretched(darker).max() > 1.5 * stretched(darker, image).max()
