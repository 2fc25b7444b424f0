"""Formats beside TIFF, read by windows: OME-Zarr, slides, and pictures such as PNG."""

from unittest import mock

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from image_layouts import DEEP, DEEP_RGB, FLOAT, GREY, RGB, by_windows, whole, write_zarr

from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.intensity import IntensityRule
from cellseg_d2.images.regions import BlockImage
from cellseg_d2.images.sources import is_zarr
from cellseg_d2.images.tiff import read_image

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


def test_a_slide_without_tiffslide_is_refused_with_the_fix(tmp_path):
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
