"""Windows of images of every layout hold what reading the whole file gives, and memory follows the windows."""

import json
import logging
import tracemalloc
from contextlib import contextmanager
from unittest import mock

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.errors import CellSegError
from cellseg_d2.images import sources
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.percentiles import percentiles
from cellseg_d2.images.regions import BlockImage, WholeImage
from cellseg_d2.images.sources import is_zarr, tiff_source
from cellseg_d2.images.tiff import IntensityRule, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (75, 109, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = RNG.integers(0, 4096, (75, 109)).astype(np.uint16)
DEEP_RGB = RNG.integers(200, 60_000, (75, 109, 3)).astype(np.uint16)
FLOAT = RNG.normal(0, 3, (75, 109)).astype(np.float32)
CORNER = np.full((75, 109), 255, np.uint8)
CORNER[-1, -1] = 0
TILES = {"tile": (16, 32)}
STRIPS = {"rowsperstrip": 7, "compression": "zlib"}

LAYOUTS = {
    "mapped": (RGB, {"photometric": "rgb"}),
    "mapped, big endian": (DEEP, {"byteorder": ">"}),
    "mapped, min is white": (GREY, {"photometric": "miniswhite"}),
    "mapped, planar": (np.moveaxis(RGB, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "tiles": (RGB, {"photometric": "rgb", **TILES}),
    "tiles, grey": (GREY, TILES),
    "tiles, min is white": (DEEP, {"photometric": "miniswhite", **TILES}),
    "tiles, big endian": (DEEP, {"byteorder": ">", **TILES}),
    "tiles, BigTIFF": (RGB, {"photometric": "rgb", "bigtiff": True, **TILES}),
    "tiles, LZW and predictor": (DEEP_RGB, {"photometric": "rgb", "compression": "lzw", "predictor": True, **TILES}),
    "tiles, JPEG": (RGB, {"photometric": "rgb", "compression": "jpeg", **TILES}),
    "tiles, JPEG 2000": (DEEP, {"compression": "jpeg2000", **TILES}),
    "tiles, bilevel": (GREY > 99, {"photometric": "minisblack", **TILES}),
    "tiles, planar": (np.moveaxis(RGB, 2, 0), {"photometric": "rgb", "planarconfig": "separate", **TILES}),
    "tiles, RGBA": (np.dstack([RGB, CORNER]), {"photometric": "rgb", "extrasamples": ["unassalpha"], **TILES}),
    "tiles, OME CYX": (np.moveaxis(DEEP_RGB, 2, 0), {"ome": True, "metadata": {"axes": "CYX"}, **TILES}),
    "tiles, OME YXS": (RGB, {"ome": True, "photometric": "rgb", "metadata": {"axes": "YXS"}, **TILES}),
    "tiles, OME TZCYX": (GREY[None, None, None], {"ome": True, "metadata": {"axes": "TZCYX"}, **TILES}),
    "strips": (RGB, {"photometric": "rgb", **STRIPS}),
    "strips, 16 bit": (DEEP, STRIPS),
    "strips, float": (FLOAT, {"predictor": True, **STRIPS}),
    "strips, float64": (FLOAT.astype(np.float64), STRIPS),
    "strips, signed": (DEEP.astype(np.int16) - 2000, STRIPS),
    "strips, 32 bit": (DEEP.astype(np.uint32) * 1_000_003, STRIPS),
    "strips, one value": (np.full((75, 109), 7, np.uint16), STRIPS),
    "strips, seldom bright": ((np.arange(75 * 109).reshape(75, 109) == 4).astype(np.uint16) * 900, STRIPS),
    "strips, ImageJ CYX": (np.moveaxis(DEEP_RGB, 2, 0), {"imagej": True, "metadata": {"axes": "CYX"}}),
}


@contextmanager
def by_windows(block=1):
    """Small files are read as large ones are, a chunk at a time."""
    with mock.patch.multiple(sources, WHOLE_BYTES=0, BLOCK_SIDE=block, BLOCK_PIXELS=block**2, UNCHUNKED=(16, 24)):
        yield


def whole(image):
    height, width = image.size
    return image.read((0, 0, width, height))


def write_pyramid(path, image, **options):
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=2, tile=(16, 16), **options)
        for step in (2, 4):
            writer.write(image[::step, ::step], subfiletype=1, tile=(16, 16), **options)


def write_zarr(path, image, axes, chunks=None, separator="/", transforms=None, axis_type=dict, version="0.4"):
    """An OME-Zarr image with two levels; ``axes`` are letters, a channel's is c."""
    options = {"chunks": chunks or tuple(min(side, 20) for side in image.shape), "dimension_separator": separator}
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    kinds = {"c": "channel", "t": "time"}
    named = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in named:
        if axis["type"] == "space":
            axis["unit"] = "micrometer"
    attributes = {
        "version": version,
        "datasets": [{"path": "0", "coordinateTransformations": transforms or []}, {"path": "1"}],
    }
    if axis_type is dict:
        attributes["axes"] = named
    elif axis_type is str:
        attributes["axes"] = list(axes)
    (path / ".zattrs").write_text(json.dumps({"multiscales": [attributes]}))
    for level, pixels in (("0", image), ("1", image[..., ::2, ::2])):
        array = (
            zarr.open(str(path / level), mode="w", shape=pixels.shape, dtype=pixels.dtype, zarr_format=2, **options)
            if int(zarr.__version__[0]) > 2
            else zarr.open(str(path / level), mode="w", shape=pixels.shape, dtype=pixels.dtype, **options)
        )
        array[:] = pixels
    return path


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


def test_the_whole_image_is_read_once_for_its_percentiles(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", DEEP, **TILES)
    with (
        by_windows(),
        open_image(tmp_path / "image.tif") as image,
        mock.patch.object(image, "_decode", wraps=image._decode) as decode,
    ):
        image.read((0, 0, 5, 5))
        assert decode.call_count == 1 + 1 + 5 * 4  # the window's block, the first for its type, and all to count
        image.read((1, 1, 9, 9))
        assert decode.call_count == 1 + 1 + 5 * 4


def test_eight_bit_images_and_ranges_need_no_look_at_the_whole(tmp_path):
    for pixels, rule in ((GREY, "percentile:0.1,99.9"), (DEEP, "range:0,4095")):
        tifffile.imwrite(tmp_path / "image.tif", pixels, **TILES)
        with by_windows(), open_image(tmp_path / "image.tif", rule) as image:
            with mock.patch.object(image, "_decode", wraps=image._decode) as decode:
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
        with mock.patch.object(image, "_decode", wraps=image._decode) as decode:
            for tile in TileGrid(*image.size, tile_size=20, overlap=0.5):
                image.read(tile.window)
        assert decode.call_count == 5 * 4


# OME-Zarr


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize(
    ("pixels", "axes"),
    [
        pytest.param(np.moveaxis(RGB, 2, 0), "cyx", id="RGB"),
        pytest.param(RGB, "yxc", id="channels last"),
        pytest.param(np.moveaxis(RGB, 2, 0)[None, :, None], "tczyx", id="five axes"),
        pytest.param(GREY, "yx", id="grey"),
        pytest.param(DEEP[None], "zyx", id="16 bit, one plane"),
        pytest.param(np.moveaxis(DEEP_RGB, 2, 0).astype(">u2"), "cyx", id="16 bit RGB, big endian"),
        pytest.param(FLOAT, "yx", id="float"),
    ],
)
def test_ome_zarr_is_read_as_a_tiff_of_the_same_values(tmp_path, pixels, axes, separator):
    tifffile.imwrite(tmp_path / "image.tif", pixels, ome=True, metadata={"axes": axes.upper().replace("YXC", "YXS")})
    expected = read_image(tmp_path / "image.tif")
    with by_windows(), open_image(write_zarr(tmp_path / "image.ome.zarr", pixels, axes, None, separator)) as image:
        assert image.size == (75, 109)
        for x0, y0, x1, y1 in (tile.window for tile in TileGrid(75, 109, tile_size=40, overlap=0.3)):
            assert np.array_equal(image.read((x0, y0, x1, y1)), expected[y0:y1, x0:x1])


@pytest.mark.parametrize("axis_type", [str, None], ids=["0.3", "0.1"])
def test_older_ome_zarr_is_read(tmp_path, axis_type):
    pixels = np.moveaxis(RGB, 2, 0)[None, :, None]
    path = write_zarr(tmp_path / "a.zarr", pixels, "tczyx", axis_type=axis_type, version="0.1")
    with open_image(path) as image:
        assert np.array_equal(whole(image), RGB)


def test_newer_ome_zarr_is_read_with_zarr_3(tmp_path):
    if int(zarr.__version__[0]) < 3:
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
        with pytest.raises(CellSegError, match=r"a\.zarr: is of Zarr's format 3; install zarr 3 or save it as"):
            open_image(tmp_path / "a.zarr")
        return
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("s0", data=np.moveaxis(RGB, 2, 0), chunks=(1, 20, 20))
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "s0"}]}]}
    with open_image(tmp_path / "a.zarr") as image:
        assert np.array_equal(whole(image), RGB)


@pytest.mark.parametrize(
    ("pixels", "axes", "message"),
    [
        pytest.param(np.zeros((4, 9, 9), np.uint8), "zyx", "has the axes ZYX 4 x 9 x 9; save one plane", id="z-stack"),
        pytest.param(np.zeros((2, 3, 9, 9), np.uint8), "tcyx", "has the axes TCYX", id="time series"),
        pytest.param(np.zeros((4, 9, 9), np.uint8), "cyx", "has 4 channels (axes CYX 4 x 9 x 9)", id="four channels"),
    ],
)
def test_ome_zarr_without_one_rgb_plane_is_refused(tmp_path, pixels, axes, message):
    with pytest.raises(CellSegError) as caught:
        open_image(write_zarr(tmp_path / "a.zarr", pixels, axes))
    assert str(caught.value).startswith(f"{tmp_path / 'a.zarr'}: {message}")


def test_other_zarr_folders_are_refused_in_a_line(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    group = tmp_path / "group"
    group.mkdir()
    (group / ".zgroup").write_text('{"zarr_format": 2}')
    assert is_zarr(tmp_path / "empty.zarr")
    assert is_zarr(group)
    assert not is_zarr(tmp_path)
    with pytest.raises(CellSegError, match=r"empty\.zarr: cannot be read as an OME-Zarr image \(.*\); export it again"):
        open_image(tmp_path / "empty.zarr")
    with pytest.raises(
        CellSegError, match=r"group: is no OME-Zarr image \(it has no multiscales\); give the folder of"
    ):
        open_image(group)


# Slides


def write_slide(path, image=RGB):
    """An Aperio slide: JPEG tiles, a thumbnail, and a description with the pixel size."""
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        description = "Aperio Image Library v11.2.1\r\n109x75 (16x16) JPEG/RGB Q=90|AppMag = 40|MPP = 0.2500"
        writer.write(image, tile=(16, 16), compression="jpeg", description=description, **options)
        writer.write(image[::4, ::4], description="Aperio Image Library v11.2.1\r\n109x75 -> 28x19", **options)
    return path


def test_slides_are_read_with_tiffslide(tmp_path):
    pytest.importorskip("tiffslide")
    path = write_slide(tmp_path / "slide.svs")
    expected = read_image(path)
    with by_windows(), open_image(path) as image:
        assert isinstance(image, BlockImage)
        assert (image.size, image.pixel_size_um) == ((75, 109), (0.25, 0.25))
        for x0, y0, x1, y1 in (tile.window for tile in TileGrid(75, 109, tile_size=40, overlap=0.3)):
            assert np.array_equal(image.read((x0, y0, x1, y1)), expected[y0:y1, x0:x1])


def test_a_damaged_slide_is_refused_in_a_line(tmp_path):
    pytest.importorskip("tiffslide")
    (tmp_path / "slide.svs").write_bytes(b"II*\0" + bytes(99))
    with pytest.raises(CellSegError, match=r"slide\.svs: cannot be read as a slide \(.*\); export it again"):
        open_image(tmp_path / "slide.svs")


def test_a_slide_without_tiffslide_is_refused_with_the_mend(tmp_path):
    path = write_slide(tmp_path / "slide.svs")
    message = r"slide\.svs: needs tiffslide .*; pip install 'cellseg_d2\[slides\]'"
    with mock.patch.dict("sys.modules", tiffslide=None), pytest.raises(CellSegError, match=message):
        open_image(path)


# Pictures


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize("pixels", [GREY, RGB, DEEP, DEEP_RGB], ids=["grey", "RGB", "16 bit", "16-bit RGB"])
def test_pictures_are_read_as_rgb(tmp_path, pixels, suffix):
    path = tmp_path / f"image{suffix}"
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    expected = IntensityRule.parse("percentile:0.1,99.9").apply(rgb)
    with open_image(path) as image:
        assert image.pixel_size_um is None
        assert np.array_equal(whole(image), expected)


def test_jpeg_is_read_as_rgb(tmp_path):
    colour = np.full((40, 50, 3), (200, 60, 160), np.uint8)
    cv2.imwrite(str(tmp_path / "image.jpg"), colour[..., ::-1])
    with open_image(tmp_path / "image.jpg") as image:
        assert np.abs(whole(image).astype(int) - colour).max() <= 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "there is no such file", id="missing"),
        pytest.param(b"", "is empty (0 bytes)", id="no bytes"),
        pytest.param(b"\x89PNG\r\n\x1a\n" * 9, "cannot be read as an image", id="damaged"),
    ],
)
def test_damaged_pictures_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(CellSegError) as caught:
        open_image(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: {message}")


def test_a_picture_over_the_limit_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    with pytest.raises(CellSegError, match=r"a\.png: is 75 x 109, over the limit of 100 pixels"):
        open_image(tmp_path / "a.png", max_pixels=100)


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
