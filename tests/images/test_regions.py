"""Windows of images of every layout hold what reading the whole file gives, and memory follows the windows."""

import logging
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import tifffile
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st
from image_layouts import DEEP, GREY, LAYOUTS, RGB, RNG, STRIPS, TILES, by_windows, whole, write_pyramid

from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.errors import CellSegError
from cellseg_d2.images import sources
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.percentiles import percentiles
from cellseg_d2.images.planes import Plane
from cellseg_d2.images.regions import BlockImage, WholeImage
from cellseg_d2.images.sources import tiff_source
from cellseg_d2.images.tiff import read_image

# The same values as of the whole file


@st.composite
def windows(draw, height, width):
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


@pytest.mark.parametrize("rule", ["percentile:0.1,99.9", "range:100,3000"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_windows_hold_what_the_whole_file_does(tmp_path, name, rule):
    pixels, options = LAYOUTS[name]
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    expected = read_image(tmp_path / "image.tif", rule)
    with by_windows(), open_image(tmp_path / "image.tif", rule) as image:
        assert isinstance(image, BlockImage)
        assert image.size == expected.shape[:2]
        for tile in TileGrid(*image.size, tile_size=40, overlap=0.5):
            x0, y0, x1, y1 = tile.window
            window = image.read(tile.window)
            assert window.dtype == np.uint8
            assert np.array_equal(window, expected[y0:y1, x0:x1])


@drawn
@given(st.data())
def test_any_windows_of_any_layout_in_any_order(tmp_path_factory, data):
    pixels, options = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    path = tmp_path_factory.mktemp("regions") / "image.tif"
    tifffile.imwrite(path, pixels, **options)
    expected = read_image(path)
    with by_windows(data.draw(st.sampled_from([1, 20, 50]))):
        source = tiff_source(path)
    with BlockImage(source, "percentile:0.1,99.9", data.draw(st.sampled_from([0, 5_000, 10**6]))) as image:
        for x0, y0, x1, y1 in data.draw(st.lists(windows(*image.size), min_size=1, max_size=8)):
            assert np.array_equal(image.read((x0, y0, x1, y1)), expected[y0:y1, x0:x1])


@pytest.mark.parametrize("options", [{"photometric": "rgb"}, {"photometric": "rgb", "compression": "jpeg"}])
def test_of_a_pyramid_the_full_resolution_is_read(tmp_path, options):
    write_pyramid(tmp_path / "pyramid.tif", RGB, **options)
    expected = read_image(tmp_path / "pyramid.tif")
    with by_windows(), open_image(tmp_path / "pyramid.tif") as image:
        assert isinstance(image, BlockImage)
        assert np.array_equal(whole(image), expected)


def test_an_ome_pyramid_is_read_by_windows_too(tmp_path):
    write_pyramid(tmp_path / "pyramid.ome.tif", RGB, photometric="rgb", compression="zlib")
    with by_windows(), open_image(tmp_path / "pyramid.ome.tif") as image:
        assert np.array_equal(whole(image), RGB)


def test_tiles_that_were_never_written_are_black(tmp_path):
    tifffile.imwrite(tmp_path / "sparse.tif", shape=(90, 70), dtype=np.uint16, tile=(16, 16), data=None)
    with by_windows(), open_image(tmp_path / "sparse.tif") as image:
        assert not whole(image).any()


@pytest.mark.parametrize("rows", [75, 40])
def test_small_files_and_one_large_strip_are_decoded_at_once(tmp_path, rows):
    tifffile.imwrite(tmp_path / "image.tif", DEEP, compression="zlib", rowsperstrip=rows)
    whole_bytes, chunk_bytes = (2**26, 2**28) if rows == 40 else (0, DEEP.nbytes - 1)
    with mock.patch.multiple(sources, WHOLE_BYTES=whole_bytes, CHUNK_BYTES=chunk_bytes):
        image = open_image(tmp_path / "image.tif")
        assert isinstance(image, WholeImage)
        assert np.array_equal(whole(image), read_image(tmp_path / "image.tif"))
        with pytest.raises(CellSegError, match="over the limit of 100 pixels"):
            open_image(tmp_path / "image.tif", max_pixels=100)


def test_what_is_read_does_not_change_what_is_kept(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", **TILES)
    with by_windows(), open_image(tmp_path / "image.tif") as image, open_image(tmp_path / "image.tif") as other:
        for regions in (image, other, WholeImage(RGB)):
            regions.read((3, 4, 30, 40))[:] = 0
            assert np.array_equal(regions.read((3, 4, 30, 40)), RGB[4:40, 3:30])


@pytest.mark.parametrize("window", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 110, 5), (0, 0, 5, 76), (5, 5, 4, 6)])
def test_windows_outside_of_the_image_are_mistakes(window):
    with pytest.raises(ValueError, match="is not inside an image of 75 x 109"):
        WholeImage(RGB).read(window)


def test_open_files_and_tifffiles_log_are_left_as_they_were(tmp_path):
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", RGB, photometric="rgb", **TILES)
    with by_windows():
        first, second = open_image(tmp_path / "a.tif"), open_image(tmp_path / "b.tif")
    first.close()
    assert np.array_equal(whole(second), RGB)
    second.close()
    assert not logging.getLogger("tifffile").disabled


# Scaling


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("count", [1, 2, 999])
def test_percentiles_in_passes_are_those_of_sorted_values(kind, count):
    values = RNG.normal(0, 1, count)
    if kind[0] != "f":
        values = np.clip(values * 0.2 + (0.5 if kind[0] == "u" else 0), -0.9, 0.9) * np.iinfo(kind).max
        values = np.clip(values, np.iinfo(kind).min, None)
    values = values.astype(kind)
    blocks = np.array_split(values, min(count, 7))
    shares = (0, 0.1, 25, 50, 99.9, 100)
    expected = np.percentile(values.astype(np.float64), shares)
    assert np.allclose(percentiles(lambda: blocks, count, shares), expected, rtol=1e-12, atol=1e-12)


def decodings():
    """A mock that counts the parts of files that are decoded."""
    return mock.patch.object(Plane, "cut", autospec=True, side_effect=Plane.cut)


def test_the_whole_image_is_read_once_for_its_percentiles(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", DEEP, **TILES)
    with (
        by_windows(),
        open_image(tmp_path / "image.tif") as image,
        decodings() as decode,
    ):
        image.read((0, 0, 5, 5))
        assert decode.call_count == 1 + 1 + 5 * 4  # the window's block, the first for its type, and all to count
        image.read((1, 1, 9, 9))
        assert decode.call_count == 1 + 1 + 5 * 4


def test_eight_bit_images_and_ranges_need_no_look_at_the_whole(tmp_path):
    for pixels, rule in ((GREY, "percentile:0.1,99.9"), (DEEP, "range:0,4095")):
        tifffile.imwrite(tmp_path / "image.tif", pixels, **TILES)
        with by_windows(), open_image(tmp_path / "image.tif", rule) as image:
            with decodings() as decode:
                image.read((0, 0, 5, 5))
            assert decode.call_count == 1


def test_an_alpha_that_is_not_opaque_is_told_of_once(tmp_path, caplog):
    pixels, options = LAYOUTS["tiles, RGBA"]
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    with by_windows(), open_image(tmp_path / "image.tif") as image, caplog.at_level(logging.WARNING, "cellseg_d2"):
        for _ in range(2):
            whole(image)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'image.tif'}: its alpha channel is not opaque everywhere; it is dropped"
    ]


# Memory


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"tile": (512, 512), "compression": "zlib"}, id="tiles"),
        pytest.param({"rowsperstrip": 64, "compression": "zlib"}, id="strips"),
        pytest.param({}, id="mapped"),
    ],
)
def test_memory_follows_the_windows_not_the_image(tmp_path, options):
    side = 6000
    row = np.arange(side, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "large.tif", np.add.outer(row, row), **options)
    with mock.patch.object(sources, "WHOLE_BYTES", 2**20):
        source = tiff_source(tmp_path / "large.tif")
    with BlockImage(source, "percentile:0.1,99.9", cache_bytes=2**22) as image:
        tracemalloc.start()
        try:
            for tile in TileGrid(*image.size, tile_size=512, overlap=0.2):
                assert image.read(tile.window).any()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < side * side * 2 / 3  # of the values as they are in the file; as RGB they are more


def test_overlapping_windows_decode_each_chunk_once(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", **TILES)
    with by_windows(), open_image(tmp_path / "image.tif") as image:
        with decodings() as decode:
            for tile in TileGrid(*image.size, tile_size=20, overlap=0.5):
                image.read(tile.window)
        assert decode.call_count == 5 * 4


# Refusals


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        pytest.param(np.zeros((5, 40, 40), np.uint8), TILES, "has the axes", id="z-stack"),
        pytest.param(
            np.zeros((2, 9, 9), np.uint8), {"ome": True, "metadata": {"axes": "CYX"}}, "has 2 channels", id="C"
        ),
        pytest.param(RGB, {"photometric": "cielab", **TILES}, "has CIELAB colours; save it as RGB", id="CIELAB"),
        pytest.param(np.full((40, 40), np.nan, np.float32), TILES, "holds complex, NaN or infinite", id="NaN"),
    ],
)
def test_tiffs_are_refused_as_when_read_whole(tmp_path, pixels, options, message):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, **options)
    with pytest.raises(CellSegError) as expected:
        read_image(path)
    with by_windows(), pytest.raises(CellSegError) as caught, open_image(path) as image:
        whole(image)
    assert str(caught.value) == str(expected.value)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("options", [TILES, STRIPS, {}], ids=["tiles", "strips", "mapped"])
def test_a_truncated_tiff_is_refused(tmp_path, options):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", **options)
    path.write_bytes(path.read_bytes()[:-900])
    with by_windows(), pytest.raises(CellSegError, match=r"image\.tif: ends after .* bytes; copy or export it again"):
        open_image(path)


def test_damage_that_only_reading_finds_is_told_of_in_a_line(tmp_path):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with by_windows(), open_image(path) as image:
        assert np.array_equal(image.read((0, 0, 16, 16)), RGB[:16, :16])
        with pytest.raises(CellSegError, match=r"image\.tif: cannot be read as a TIFF \(.*\); export it again"):
            whole(image)


def test_a_rule_that_is_not_understood_is_refused_before_anything_is_opened(tmp_path):
    with pytest.raises(CellSegError, match="intensity rule 'brighter' is not understood"):
        open_image(tmp_path / "image.tif", "brighter")
