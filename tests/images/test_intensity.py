"""Intensities that are scaled to 8 bit: one range for RGB, and one per channel."""

import numpy as np
import pytest
import tifffile
from image_layouts import by_windows

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.formats import open_image, read_whole
from cellseg_d2.images.intensity import IntensityRule, as_8_bit, rules_of
from cellseg_d2.images.regions import BlockImage

FACTORS = np.array([10, 200, 3], np.uint16)
RANGES = "range:0,2550/0,51000/0,765"
"""By which channels that were multiplied by the factors become what they were."""

PIXELS = np.random.default_rng(0).integers(0, 256, (75, 109, 3), dtype=np.uint8)


@pytest.mark.parametrize("text", ["percentile:0.1,99.9", "percentile:0,100", "range:-5,5", "range:0,1e6"])
def test_intensity_rules_are_understood(text):
    kind, numbers = text.split(":")
    rule = IntensityRule.parse(text)
    assert (rule.kind, [rule.low, rule.high]) == (kind, [float(number) for number in numbers.split(",")])


@pytest.mark.parametrize(
    "text",
    [
        *("", "range", "range:", "range:1", "range:1,2,3", "range:5,5", "range:9,1", "range:a,b", "range:nan,1"),
        *("percentile:-1,99", "percentile:1,101", "percentile:0.1-99.9", "minmax:0,1"),
    ],
)
def test_other_intensity_rules_are_refused(text):
    with pytest.raises(CellSegError, match=r"intensity rule .* is not understood; write"):
        IntensityRule.parse(text)


def test_cells_that_cover_less_than_the_percentiles_leave_out_stay_visible():
    image = np.zeros((100, 100), np.uint16)
    image[50, 50] = 3000
    assert IntensityRule.parse("percentile:0.1,99.9").apply(image)[50, 50] == 255


# A range per channel


def test_each_channel_has_its_range_and_8_bit_is_not_changed():
    rule = PixelRule(RANGES, ("a", "b", "c"))
    assert np.array_equal(as_8_bit(PIXELS * FACTORS, rule), PIXELS)
    assert as_8_bit(PIXELS, rule) is PIXELS
    percentiles = as_8_bit(PIXELS * FACTORS, PixelRule("percentile:0,100/0,50/1,99", ("a", "b", "c")))
    for place, text in enumerate(("percentile:0,100", "percentile:0,50", "percentile:1,99")):
        alone = IntensityRule.parse(text).apply((PIXELS * FACTORS)[..., place])
        assert np.array_equal(percentiles[..., place], alone)


def test_files_are_read_by_them_whole_and_by_windows(tmp_path):
    stored = np.moveaxis(PIXELS * FACTORS, 2, 0)
    tifffile.imwrite(tmp_path / "image.tif", stored, photometric="minisblack", tile=(16, 32))
    rule = PixelRule("range:0,765/0,2550", ("2", "0"))
    assert np.array_equal(read_whole(tmp_path / "image.tif", rule), PIXELS[..., [2, 0]])
    with by_windows(), open_image(tmp_path / "image.tif", rule) as image:
        assert isinstance(image, BlockImage)
        assert np.array_equal(image.read((7, 5, 90, 70)), PIXELS[5:70, 7:90, [2, 0]])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (
            ("a", "b"),
            r"'range:0,1/0,2/0,3' has 3 ranges, one per channel, but the images have 2 channels; give one",
        ),
        (("a",), r"has 3 ranges, one per channel, but the images have 1 channel;"),
        ((), r"has 3 ranges, one per channel, but images are read as RGB; give one range for all"),
    ],
)
def test_there_are_as_many_as_channels(tmp_path, channels, message):
    rule = PixelRule("range:0,1/0,2/0,3", channels)
    for refused in (lambda: rules_of(rule), lambda: open_image(tmp_path / "image.tif", rule)):
        with pytest.raises(CellSegError, match=message):
            refused()


@pytest.mark.parametrize("text", ["range:0,1/", "range:0,1/2", "range:0,1/5,2", "range:0,1/percentile:0,1", "/"])
def test_each_range_is_one(text):
    with pytest.raises(CellSegError, match=r"intensity rule .* is not understood; write"):
        rules_of(PixelRule(text, ("a", "b")))
