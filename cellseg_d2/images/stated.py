"""What the header of an image's file states about its pixels, besides their number."""

from __future__ import annotations

from typing import Any, NamedTuple

import tifffile

from cellseg_d2.images.pixel_size import PixelSize, tiff_pixel_size


class PixelFormat(NamedTuple):
    """What a file's pixels are, before any scaling.

    Attributes:
        dtype: numpy's name.
        bits: bits per value as the file states them; fewer than the type has if, say, a camera fills 12 of 16.
        channels: values per pixel.
    """

    dtype: str
    bits: int
    channels: int


class Stated(NamedTuple):
    """What the header of an image's file states about its pixels.

    Attributes:
        pixel_format: None where the file's format does not tell.
        pixel_size_um: (x, y) in microns; None where it is not stated.
    """

    pixel_format: PixelFormat | None = None
    pixel_size_um: PixelSize | None = None


NOT_STATED = Stated()
RGB_8_BIT = Stated(PixelFormat("uint8", 8, 3))


def tiff_stated(file: tifffile.TiffFile, series: Any) -> Stated:
    """What an open TIFF states about one of its images (tifffile's series)."""
    channel_axis = next((axis for axis in "SC" if axis in series.axes), None)
    channels = 1 if channel_axis is None else series.shape[series.axes.index(channel_axis)]
    pixel_format = PixelFormat(str(series.dtype), int(series.keyframe.bitspersample), int(channels))
    return Stated(pixel_format, tiff_pixel_size(file, series.keyframe))
