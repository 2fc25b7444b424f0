"""The table of image formats. A new format is a file with its functions, and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.images.channels import PixelRule, Rule
from cellseg_d2.images.intensity import rules_of
from cellseg_d2.images.pictures import PICTURE_SUFFIXES, picture_size, read_picture
from cellseg_d2.images.pixel_size import tiff_pixel_size
from cellseg_d2.images.planes import Plane
from cellseg_d2.images.regions import BlockImage, ImageHeader, ImageRegions, WholeImage
from cellseg_d2.images.sources import (
    SLIDE_SUFFIXES,
    PixelSource,
    Wanted,
    is_slide,
    is_zarr,
    slide_source,
    tiff_source,
    zarr_source,
)
from cellseg_d2.images.stated import NOT_STATED, Stated
from cellseg_d2.images.tiff import (
    INTENSITY_RULE,
    MAX_PIXELS,
    only_image,
    opened,
    photometric,
    read_image_with_header,
)
from cellseg_d2.images.tiff_header import orientation

TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class ImageFormat:
    """How the images of one format are read.

    Attributes:
        name: the format's name.
        suffixes: suffixes of its files, in lower case; none for folders.
        accepts: whether a path is of the format.
        open: opens an image to be read by windows; takes path, rule, largest number of pixels to decode.
        header: reads the size and the pixel size without decoding a pixel.
        read: reads the whole image, (H, W, C) uint8, RGB unless the rule names other channels, and what its header
            states; takes the same as ``open``; None to read it by windows.
    """

    name: str
    suffixes: tuple[str, ...]
    accepts: Callable[[Path], bool]
    open: Callable[[Path, Rule, int], ImageRegions]
    header: Callable[[Path], ImageHeader]
    read: Callable[[Path, Rule, int], tuple[NDArray[np.uint8], Stated]] | None = None


def _source_format(
    name: str, suffixes: tuple[str, ...], accepts: Callable[[Path], bool], source: Callable[[Path, Wanted], PixelSource]
) -> ImageFormat:
    """A format that is always read by windows."""

    def header(path: Path) -> ImageHeader:
        opened_source = source(path, None)
        with opened_source.open_files:
            return ImageHeader(opened_source.plane.size, opened_source.pixel_size_um)

    def open_source(path: Path, rule: Rule, _: int) -> ImageRegions:
        return BlockImage(source(path, PixelRule.of(rule).channels), rule)

    return ImageFormat(name, suffixes, accepts, open_source, header)


def _open_tiff(path: Path, rule: Rule, max_pixels: int) -> ImageRegions:
    """Opens a TIFF to be read by windows; a small one, or one of a single large strip, is decoded at once."""
    source = tiff_source(path, PixelRule.of(rule).channels)
    if source is None:
        image, stated = read_image_with_header(path, rule, max_pixels)
        return WholeImage(image, stated.pixel_size_um)
    return BlockImage(source, rule)


def _tiff_header(path: Path) -> ImageHeader:
    with opened(path) as file:
        series = only_image(path, file, None)
        page = series.keyframe
        plane = Plane.of(path, series.axes, series.shape, photometric(page), orientation(page), wanted=None)
        return ImageHeader(plane.size, tiff_pixel_size(file, page))


def _has_suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in suffixes


FORMATS: tuple[ImageFormat, ...] = (
    _source_format("OME-Zarr", (), is_zarr, zarr_source),
    _source_format("whole slide", SLIDE_SUFFIXES, is_slide, slide_source),
    ImageFormat(
        "PNG or JPEG",
        PICTURE_SUFFIXES,
        _has_suffix(*PICTURE_SUFFIXES),
        lambda path, rule, max_pixels: WholeImage(read_picture(path, rule, max_pixels)),
        lambda path: ImageHeader(picture_size(path), None),
        lambda path, rule, max_pixels: (read_picture(path, rule, max_pixels), NOT_STATED),
    ),
    ImageFormat("TIFF", TIFF_SUFFIXES, _has_suffix(*TIFF_SUFFIXES), _open_tiff, _tiff_header, read_image_with_header),
)
"""The formats, in the order in which they are tried on a path."""


def format_of(path: Path) -> ImageFormat:
    """The format of a path; where no format accepts it, TIFF, whose reader says what is wrong with the file."""
    return next((form for form in FORMATS if form.accepts(path)), FORMATS[-1])


def is_image(path: Path) -> bool:
    """Whether a path is an image file or an OME-Zarr folder, by its name and kind."""
    return any(form.accepts(path) and (path.is_file() or not form.suffixes) for form in FORMATS)


def open_image(path: str | Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> ImageRegions:
    """Opens an image to read windows of it.

    TIFF, OME-TIFF and OME-Zarr folders are read by windows, pyramids at full resolution, and whole slides too where
    tiffslide is installed. PNG, JPEG and TIFFs that are small or of one large compressed strip are decoded at once.

    Args:
        path: a file, or an OME-Zarr folder.
        rule: how images that are not 8 bit are scaled, and which channels are read, see
            :class:`cellseg_d2.images.channels.PixelRule`.
        max_pixels: images that are decoded at once are refused if they declare more.

    Raises:
        CellSegError: missing, damaged, too large, not one plane of grey, RGB or the channels asked
            for, or a slide without tiffslide.
    """
    rules_of(rule)
    return format_of(Path(path)).open(Path(path), rule, max_pixels)


def read_whole(path: str | Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads an image of any format, (H, W, 3) uint8 RGB, or (H, W, C) where the rule names C channels.

    Arguments and errors are as in :func:`open_image`.

    Raises:
        CellSegError: also where an image that is read by windows has more than ``max_pixels``.
    """
    return read_with_header(path, rule, max_pixels)[0]


def read_with_header(
    path: str | Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], Stated]:
    """As :func:`read_whole`, with what a TIFF's header states; of other formats that is nothing."""
    form = format_of(Path(path))
    if form.read is not None:
        return form.read(Path(path), rule, max_pixels)
    with open_image(path, rule, max_pixels) as regions:
        height, width = regions.size
        if height * width > max_pixels:
            raise CellSegError(f"{path}: is {size_text(regions.size)}, over the limit of {max_pixels} pixels")
        return regions.read((0, 0, width, height)), NOT_STATED


def image_header(path: str | Path) -> ImageHeader:
    """An image's size and pixel size, from its header alone.

    Raises:
        CellSegError: the header cannot be read, it is not of one plane, or it is a slide without tiffslide.
    """
    return format_of(Path(path)).header(Path(path))
