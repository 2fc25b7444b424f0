"""Images in every layout that is read by windows, and how the tests read them."""

import json
from contextlib import contextmanager
from unittest import mock

import numpy as np
import tifffile
import zarr

from cellseg_d2.images import sources

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
