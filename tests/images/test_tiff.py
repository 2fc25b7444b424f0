"""TIFF files as microscopes, scanners and other tools write them."""

import logging

import numpy as np
import pytest
import tifffile
from drawing import LARGEST_ID, written
from hypothesis import given
from hypothesis import strategies as st
from tiff_files import BILEVEL, GREY, IN_A_CORNER, LABELS, OPAQUE, RGB, RNG, grey

from cellseg_d2.images.tiff import read_image, read_label_map

# Images


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        pytest.param(GREY, {}, grey(GREY), id="grey"),
        pytest.param(GREY[..., None], {"photometric": "minisblack"}, grey(GREY), id="grey, one sample"),
        pytest.param(GREY[None], {}, grey(GREY), id="grey, one page axis"),
        pytest.param(RGB, {"photometric": "rgb"}, RGB, id="RGB"),
        pytest.param(OPAQUE, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, RGB, id="RGBA"),
        pytest.param(np.moveaxis(RGB, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, RGB, id="planar RGB"),
        pytest.param(
            np.moveaxis(OPAQUE, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, RGB, id="planar RGBA"
        ),
        pytest.param(RGB, {"photometric": "rgb", "rowsperstrip": 5}, RGB, id="strips"),
        pytest.param(RGB, {"photometric": "rgb", "tile": (16, 32)}, RGB, id="tiles"),
        pytest.param(RGB, {"photometric": "rgb", "compression": "lzw"}, RGB, id="LZW"),
        pytest.param(RGB, {"photometric": "rgb", "compression": "zlib", "predictor": True}, RGB, id="deflate"),
        pytest.param(RGB, {"photometric": "rgb", "compression": "packbits"}, RGB, id="PackBits"),
        pytest.param(RGB, {"photometric": "rgb", "bigtiff": True}, RGB, id="BigTIFF"),
        pytest.param(RGB, {"photometric": "rgb", "byteorder": ">"}, RGB, id="big endian"),
        pytest.param(np.moveaxis(RGB, 2, 0), {"ome": True, "metadata": {"axes": "CYX"}}, RGB, id="OME, CYX"),
        pytest.param(GREY[None, None], {"ome": True, "metadata": {"axes": "ZCYX"}}, grey(GREY), id="OME, ZCYX"),
        pytest.param(np.moveaxis(RGB, 2, 0), {"imagej": True, "metadata": {"axes": "CYX"}}, RGB, id="ImageJ, CYX"),
        pytest.param(GREY[:, :3], {}, grey(GREY[:, :3]), id="three pixels wide"),
        pytest.param(GREY[:1, :1], {}, grey(GREY[:1, :1]), id="one pixel"),
        pytest.param(GREY, {"photometric": "miniswhite"}, grey(255 - GREY), id="min is white"),
        pytest.param(BILEVEL, {"photometric": "minisblack"}, grey(BILEVEL * np.uint8(255)), id="bilevel"),
        pytest.param(BILEVEL, {"photometric": "miniswhite"}, grey(~BILEVEL * np.uint8(255)), id="bilevel, inverted"),
        pytest.param(
            BILEVEL,
            {"photometric": "minisblack", "compression": "lzw"},
            grey(BILEVEL * np.uint8(255)),
            id="bilevel, LZW",
        ),
    ],
)
def test_eight_bit_images_keep_every_value(tiff, pixels, options, expected):
    image = read_image(tiff(pixels, **options))
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, expected)


def test_a_smaller_preview_in_the_file_is_no_second_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "file.tif") as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::4, ::4], photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "file.tif"), RGB)


def test_jpeg_tiles_are_read_within_what_jpeg_loses(tiff):
    y, x = np.mgrid[:64, :64].astype(np.uint8)
    smooth = np.dstack([y, x, y + x])
    path = tiff(smooth, photometric="rgb", compression="jpeg", tile=(32, 32))
    assert tifffile.TiffFile(path).pages[0].photometric.name == "YCBCR"  # which other compressions are refused with
    image = read_image(path)
    assert np.abs(image.astype(int) - smooth).max() <= 8


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64])
def test_a_range_maps_low_to_0_and_high_to_255(tiff, kind):
    image = read_image(tiff(RAMP.astype(kind) * kind(4) + kind(100)), rule="range:100,1120")
    assert np.array_equal(image, grey(RAMP))


def test_small_differences_of_large_intensities_are_kept(tiff):
    image = read_image(tiff(RAMP.astype(np.uint32) + np.uint32(3_000_000_000)), rule="range:3000000000,3000000255")
    assert np.array_equal(image, grey(RAMP))


def test_what_lies_outside_a_range_is_clipped(tiff):
    image = read_image(tiff(np.array([[0, 99, 100, 355, 356, 65_535]], np.uint16)), rule="range:100,355")
    assert image[0, :, 0].tolist() == [0, 0, 0, 255, 255, 255]


def test_percentiles_are_of_the_whole_image_and_of_all_channels_together(tiff):
    pixels = RNG.integers(0, 4096, (40, 50, 3)).astype(np.uint16) * np.array([1, 2, 4], np.uint16)
    low, high = np.percentile(pixels, (1, 99))
    expected = np.clip(np.rint((pixels - low) * 255 / (high - low)), 0, 255)
    image = read_image(tiff(pixels, photometric="rgb"), rule="percentile:1,99")
    assert np.abs(image - expected).max() <= 1  # rounding of 32-bit floats
    assert image.max() == 255
    assert image.min() == 0


def test_a_16_bit_min_is_white_image_is_scaled_and_inverted(tiff):
    pixels = RAMP.astype(np.uint16) * 257
    assert np.array_equal(read_image(tiff(pixels, photometric="miniswhite"), rule="range:0,65535"), grey(255 - RAMP))


def test_the_alpha_of_a_16_bit_image_has_no_part_in_the_scaling(tiff):
    rgb = RNG.integers(0, 1000, (20, 30, 3)).astype(np.uint16)
    rgba = np.dstack([rgb, np.full((20, 30), 65_535, np.uint16)])
    expected = read_image(tiff(rgb, photometric="rgb"))
    assert np.array_equal(read_image(tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])), expected)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_constant_image_is_black(tiff, kind):
    assert not read_image(tiff(np.full((8, 9), 700, kind))).any()


@pytest.mark.parametrize(
    "alpha",
    [
        pytest.param(IN_A_CORNER, id="in a corner"),
        pytest.param(np.full((37, 53), 0, np.uint8), id="nowhere"),
        pytest.param(np.full((37, 53), 128, np.uint8), id="half, everywhere"),
    ],
)
def test_an_alpha_channel_that_is_not_opaque_is_dropped_with_a_notice(tiff, caplog, alpha):
    path = tiff(np.dstack([RGB, alpha]), photometric="rgb", extrasamples=["unassalpha"])
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        assert np.array_equal(read_image(path), RGB)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: its alpha channel is not opaque everywhere; it is dropped"
    ]


@pytest.mark.parametrize(("kind", "opaque"), [(np.uint8, 255), (np.uint16, 65_535), (np.float32, 1)])
def test_an_opaque_alpha_channel_gives_no_notice(tiff, caplog, kind, opaque):
    rgba = np.dstack([RGB.astype(kind), np.full((37, 53), opaque, kind)])
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        read_image(tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]))
    assert caplog.records == []


# Label maps


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        pytest.param(LABELS.astype(np.uint8), {}, LABELS, id="8 bit"),
        pytest.param(LABELS.astype(np.uint16) * 300, {}, LABELS * 300, id="16 bit"),
        pytest.param(LABELS.astype(np.uint32) * 70_000, {}, LABELS * 70_000, id="unsigned 32 bit"),
        pytest.param(LABELS * 70_000, {}, LABELS * 70_000, id="signed 32 bit"),
        pytest.param(LABELS.astype(np.float32), {}, LABELS, id="32-bit float"),
        pytest.param(LABELS.astype(np.float64) * 70_001, {}, LABELS * 70_001, id="64-bit float"),
        pytest.param(np.array([[0, LARGEST_ID]], np.uint32), {}, [[0, LARGEST_ID]], id="the largest id"),
        pytest.param(BILEVEL, {}, BILEVEL, id="bilevel"),
        pytest.param(LABELS[None], {}, LABELS, id="one leading axis"),
        pytest.param(LABELS[..., None], {}, LABELS, id="one trailing axis"),
        pytest.param(LABELS[None], {"ome": True, "metadata": {"axes": "CYX"}}, LABELS, id="OME, one channel"),
        pytest.param(grey(LABELS.astype(np.uint8)), {"photometric": "rgb"}, LABELS, id="repeated as RGB"),
        pytest.param(
            np.moveaxis(grey(LABELS.astype(np.uint16)), 2, 0),
            {"photometric": "rgb", "planarconfig": "separate"},
            LABELS,
            id="repeated as planar RGB",
        ),
        pytest.param(
            np.moveaxis(grey(LABELS), 2, 0), {"ome": True, "metadata": {"axes": "CYX"}}, LABELS, id="repeated, OME"
        ),
        pytest.param(np.stack([LABELS] * 3), {"photometric": "minisblack"}, LABELS, id="repeated, no names"),
        pytest.param(
            np.stack([LABELS] * 3), {"ome": True, "metadata": {"axes": "ZYX"}}, LABELS, id="repeated, as a z-stack"
        ),
        pytest.param(
            np.dstack([grey(LABELS), np.full(LABELS.shape, 255)]).astype(np.uint8),
            {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            LABELS,
            id="repeated as RGBA",
        ),
        pytest.param(
            LABELS.astype(np.uint8),
            {"photometric": "palette", "colormap": RNG.integers(0, 65_536, (3, 256)).astype(np.uint16)},
            LABELS,
            id="with a palette",
        ),
        pytest.param(LABELS.astype(np.float16), {}, LABELS, id="16-bit float"),
        pytest.param(LABELS.astype(np.uint16), {"compression": "zlib", "predictor": True}, LABELS, id="deflate"),
        pytest.param(LABELS.astype(np.uint16), {"compression": "lzw", "tile": (16, 16)}, LABELS, id="LZW tiles"),
        pytest.param(LABELS.astype(np.uint8), {"photometric": "miniswhite"}, LABELS, id="min is white changes no id"),
        pytest.param(np.zeros((4, 5), np.uint8), {}, np.zeros((4, 5)), id="no cell"),
        pytest.param(np.ones((5, 1), np.uint8), {}, np.ones((5, 1)), id="one pixel wide"),
    ],
)
def test_label_maps_keep_every_id(tiff, pixels, options, expected):
    label_map = read_label_map(tiff(pixels, **options))
    assert label_map.dtype == np.int32
    assert label_map.flags["C_CONTIGUOUS"]
    assert np.array_equal(label_map, expected)


@written
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.booleans())
def test_ids_beyond_31_bits_are_numbered_anew_and_none_is_lost(tmp_path_factory, ids, as_float):
    path = tmp_path_factory.mktemp("ids") / "class1.tif"
    values = np.array([[*ids, LARGEST_ID + 1]], np.float64 if as_float else np.uint32)
    tifffile.imwrite(path, values)
    label_map = read_label_map(path)
    assert np.array_equal(label_map == 0, values == 0)
    assert np.array_equal(label_map[0][:, None] == label_map[0], values[0][:, None] == values[0])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint32, np.int64])
def test_the_first_id_beyond_31_bits_stays_positive(tiff, kind):
    label_map = read_label_map(tiff(np.array([[0, 2**31, 5]]).astype(kind)))
    assert label_map.tolist() == [[0, 2, 1]]


def test_the_largest_of_the_16_bit_floats_is_kept(tiff):
    assert read_label_map(tiff(np.array([[0, 65_504]], np.float16))).tolist() == [[0, 65_504]]
