"""TIFF files that cannot be used: each is refused with one line."""

import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from tiff_files import GREY, IN_A_CORNER, LABELS, OPAQUE, RGB, grey, refusal

from cellseg_d2.images.tiff import read_image, read_label_map


def page_by_page(path):
    with tifffile.TiffWriter(path) as writer:
        for _ in range(4):
            writer.write(GREY)


def with_nan(pixels):
    pixels = pixels.astype(np.float32)
    pixels[3, 4] = np.nan
    return pixels


@pytest.mark.parametrize("read", [read_image, read_label_map])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: None, "there is no such file", id="missing"),
        pytest.param(lambda path: path.mkdir(), "there is no such file", id="a folder"),
        pytest.param(lambda path: path.touch(), "is empty (0 bytes); export it again", id="no bytes"),
        pytest.param(lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" * 9), "cannot be read as a TIFF", id="PNG"),
        pytest.param(lambda path: path.write_bytes(b"II*\0"), "cannot be read as a TIFF", id="signature only"),
        pytest.param(lambda path: path.write_bytes(b"II*\0" + b"\xff" * 99), "cannot be read as a TIFF", id="garbage"),
        pytest.param(
            lambda path: tifffile.imwrite(path, np.zeros((5, 8, 9), np.uint16)), "5 x 8 x 9", id="z-stack without names"
        ),
        pytest.param(page_by_page, "holds 4 images of 37 x 53; save one plane", id="z-stack written page by page"),
        pytest.param(
            lambda path: tifffile.imwrite(path, np.zeros((5, 8, 9), np.uint8), imagej=True, metadata={"axes": "ZYX"}),
            "has the axes ZYX 5 x 8 x 9",
            id="ImageJ z-stack",
        ),
        pytest.param(
            lambda path: tifffile.imwrite(path, np.zeros((4, 3, 8, 9), np.uint8), ome=True, metadata={"axes": "TCYX"}),
            "has the axes TCYX 4 x 3 x 8 x 9",
            id="OME time series",
        ),
    ],
)
def test_what_is_no_single_plane_is_refused(tmp_path, read, write, message):
    path = tmp_path / "file.tif"
    write(path)
    assert message in refusal(read, path)


@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"photometric": "minisblack", "planarconfig": "separate"}, id="planar"),
        pytest.param({"ome": True, "metadata": {"axes": "CYX"}}, id="OME"),
        pytest.param({"imagej": True, "metadata": {"axes": "CYX"}}, id="ImageJ"),
    ],
)
def test_images_of_other_channel_counts_are_refused(tiff, count, options):
    path = tiff(np.zeros((count, 8, 9), np.uint8), **options)
    message = refusal(read_image, path)
    assert f"has {count} channels (axes " in message
    assert message.endswith(
        ", where 1 or 3 are wanted; pick some with --channels, or save one channel as grey, or three as RGB"
    )


def test_a_stack_of_four_channels_that_are_not_samples_is_no_rgba(tiff):
    path = tiff(np.zeros((4, 8, 9), np.uint8), photometric="rgb", planarconfig="separate", metadata={"axes": "CYX"})
    assert "has 4 channels (axes CYX 4 x 8 x 9)" in refusal(read_image, path)


@pytest.mark.parametrize(
    ("pixels", "options", "colours"),
    [
        pytest.param(OPAQUE, {"photometric": "separated"}, "CMYK colours", id="CMYK"),
        pytest.param(OPAQUE, {"photometric": "separated", "compression": "jpeg"}, "CMYK colours", id="CMYK, JPEG"),
        pytest.param(RGB, {"photometric": "cielab"}, "CIELAB colours", id="CIELAB"),
        pytest.param(RGB, {"photometric": "icclab"}, "ICCLAB colours", id="ICCLAB"),
        pytest.param(RGB, {"photometric": "ycbcr"}, "YCbCr colours that are not JPEG's", id="YCbCr"),
        pytest.param(RGB, {"photometric": "ycbcr", "compression": "lzw"}, "YCbCr colours", id="YCbCr, LZW"),
        pytest.param(
            GREY,
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "a colour palette",
            id="palette",
        ),
    ],
)
def test_images_of_other_colour_spaces_are_refused(tiff, pixels, options, colours):
    message = refusal(read_image, tiff(pixels, **options))
    assert message.startswith(f"has {colours}")
    assert message.endswith("; save it as RGB")


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(with_nan(GREY), id="NaN"),
        pytest.param(np.array([[1, np.inf]], np.float32), id="infinite"),
        pytest.param(np.ones((3, 4), np.complex64), id="complex"),
    ],
)
def test_intensities_that_are_no_numbers_are_refused(tiff, pixels):
    assert refusal(read_image, tiff(pixels)) == "holds complex, NaN or infinite intensities; replace them first"


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        pytest.param(with_nan(LABELS), {}, "holds fractions or NaN", id="NaN"),
        pytest.param(LABELS + np.float32(0.5), {}, "holds fractions or NaN", id="fractions"),
        pytest.param(np.array([[1, np.inf]]), {}, "holds fractions or NaN", id="infinite"),
        pytest.param(LABELS - 1, {}, "holds negative labels", id="negative integers"),
        pytest.param(-LABELS.astype(np.float32), {}, "holds negative labels", id="negative floats"),
        pytest.param(np.ones((3, 4), np.complex64), {}, "holds complex64 values", id="complex"),
        pytest.param(RGB, {"photometric": "rgb"}, "its channels differ", id="an RGB picture"),
        pytest.param(
            np.dstack([grey(LABELS.astype(np.uint8)), IN_A_CORNER]),
            {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            "its channels differ",
            id="an alpha that is not opaque",
        ),
        pytest.param(
            np.moveaxis(RGB, 2, 0), {"photometric": "minisblack"}, "has the axes QYX 3 x 37 x 53", id="a short z-stack"
        ),
    ],
)
def test_label_maps_with_other_values_are_refused(tiff, pixels, options, message):
    assert refusal(read_label_map, tiff(pixels, **options)).startswith(message)


LAYOUTS = [
    pytest.param({}, id="contiguous"),
    pytest.param({"rowsperstrip": 5}, id="strips"),
    pytest.param({"tile": (16, 16)}, id="tiles"),
    pytest.param({"compression": "lzw"}, id="LZW"),
    pytest.param({"compression": "zlib", "predictor": True, "rowsperstrip": 8}, id="deflate"),
    pytest.param({"compression": "jpeg", "tile": (16, 16)}, id="JPEG"),
    pytest.param({"bigtiff": True}, id="BigTIFF"),
]


@pytest.mark.parametrize("options", LAYOUTS)
def test_a_truncated_file_is_refused_wherever_it_ends(tiff, options, capfd, caplog):
    path = tiff(RGB, photometric="rgb", **options)
    whole = path.read_bytes()
    for length in [*range(1, len(whole), len(whole) // 40), *range(len(whole) - 40, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal(read_image, path)
    assert caplog.records == []  # one line a file, and it is the exception's
    assert capfd.readouterr().err == ""


def declare(path, height, width, data=b"\0" * 64, samples=1, compression=1):
    """A classic TIFF whose header states any size and byte count, over a few bytes."""
    byte_count = min(height * width * samples, 2**32 - 1) if compression == 1 else len(data)
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1 if samples == 1 else 2)]
    tags += [(273, 4, 8), (277, 3, samples), (278, 4, height), (279, 4, byte_count)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4)


@pytest.mark.parametrize("read", [read_image, read_label_map])
@pytest.mark.parametrize(
    ("height", "width", "compression", "message"),
    [
        pytest.param(10**6, 10**6, 1, "declares 1000000 x 1000000, over the limit of 2147483648 pixels", id="over"),
        pytest.param(10**6, 10**6, 5, "declares 1000000 x 1000000, over the limit", id="over, LZW"),
        pytest.param(40_000, 40_000, 1, "ends after", id="under the limit"),
        pytest.param(40_000, 40_000, 8, "cannot be read as a TIFF", id="under the limit, deflate"),
    ],
)
def test_a_huge_image_over_a_few_bytes_is_refused_before_memory_is_taken(
    tmp_path, read, height, width, compression, message
):
    path = tmp_path / "huge.tif"
    declare(path, height, width, compression=compression)
    tracemalloc.start()
    try:
        assert message in refusal(read, path)
        if compression == 1 or message.startswith("declares"):
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [read_image, read_label_map])
def test_the_limit_counts_pixels_and_not_channels(tiff, read):
    path = tiff(grey(GREY), photometric="rgb")
    assert read(path, max_pixels=37 * 53).shape[:2] == (37, 53)
    assert refusal(read, path, max_pixels=37 * 53 - 1).endswith(f"over the limit of {37 * 53 - 1} pixels")
