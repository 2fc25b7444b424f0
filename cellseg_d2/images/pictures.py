"""PNG and JPEG -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.images.channels import Rule, picked_of_rgb
from cellseg_d2.images.intensity import as_8_bit
from cellseg_d2.images.memory import IN_PARTS, check_memory
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS, check_file

EXIF_ORIENTATION = 0x0112
EXIF_QUARTER_TURNS = range(5, 9)
"""EXIF orientations that exchange the stored width and height."""

OPENCV_LOG = getattr(cv2.utils, "logging", cv2)
"""Where OpenCV keeps ``getLogLevel`` and ``setLogLevel``: OpenCV 5 moved them."""

PILLOW_READERS: dict[bytes, Callable[[Path], ImageFile.ImageFile]] = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
}
"""By the first bytes of a file."""

OPENCV_OUT_OF_MEMORY = -4
"""OpenCV's StsNoMem."""

MOST_PIXELS = 2**30
"""OpenCV decodes no larger picture."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_picture(path: Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads a picture in any format that OpenCV knows; follows the EXIF orientation and drops an alpha channel.

    Args:
        path: the file.
        rule: how 16-bit pictures are scaled, see :class:`cellseg_d2.images.intensity.IntensityRule`, and which of the
            channels red, green and blue are read, see :class:`cellseg_d2.images.channels.PixelRule`.
        max_pixels: larger pictures are refused from the header, and those above ``MOST_PIXELS``.

    Returns:
        (H, W, 3) uint8 RGB; (H, W, C) where the rule names C channels.

    Raises:
        CellSegError: missing, damaged or too large.
    """
    check_file(path)
    _check_size(path, min(max_pixels, MOST_PIXELS))
    try:
        with _opencv_silent():
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error as error:
        reason = getattr(error, "err", None) or one_line(error)  # the full message is mostly a path in OpenCV's source
        too_large = "MAX_IMAGE" in reason or error.code == OPENCV_OUT_OF_MEMORY
        fix = IN_PARTS if too_large else "export it again"
        raise CellSegError(f"{path}: cannot be read as an image ({reason}); {fix}") from error
    except MemoryError as error:
        raise CellSegError(f"{path}: does not fit into memory; {IN_PARTS}") from error
    if pixels is None:
        raise CellSegError(f"{path}: cannot be read as an image; export it again")
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels)  # in place
    return as_8_bit(picked_of_rgb(path, np.asarray(pixels), rule), rule)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as :func:`read_picture` gives it, from its header alone.

    Raises:
        CellSegError: missing, or the header cannot be read.
    """
    return _header(path)[0]


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """(height, width) as read, and whether the channels have 16 bit."""
    check_file(path)
    with header_errors(path, "an image"), open_header(path) as picture:
        width, height = picture.size
        exif = _png_exif(path) if isinstance(picture, PngImagePlugin.PngImageFile) else picture.getexif()
        turned = exif.get(EXIF_ORIENTATION, 1) in EXIF_QUARTER_TURNS
        return (width, height) if turned else (height, width), has_16_bit(picture)


def _png_exif(path: Path) -> Image.Exif:
    """The EXIF data of a PNG, which may follow the pixels; Pillow would decode them to find it.

    https://www.w3.org/TR/png-3/#5Chunk-layout
    """
    exif = Image.Exif()
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                exif.load(file.read(length))
                break
            file.seek(length + 4, 1)  # and the checksum
    return exif


def open_header(path: Path) -> ImageFile.ImageFile:
    """A picture whose header is read, to be closed by the caller; Pillow's ``open`` would refuse a large one."""
    with path.open("rb") as file:
        start = file.read(4)
    kind = next((kind for magic, kind in PILLOW_READERS.items() if start.startswith(magic)), None)
    return Image.open(path) if kind is None else kind(path)


@contextmanager
def header_errors(path: Path, kind: str) -> Iterator[None]:
    """Turns what Pillow raises into a one-line error.

    Args:
        path: the file.
        kind: what it should be, with its article.

    Raises:
        CellSegError: instead of Pillow's exceptions.
    """
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CellSegError(f"{path}: cannot be read as {kind} ({one_line(error)}); export it again") from error


def has_16_bit(picture: ImageFile.ImageFile) -> bool:
    """Whether the channels have 16 bit each, which Pillow's mode does not say of colours."""
    return "16" in str(picture.tile[0].args)


def _check_size(path: Path, limit: int) -> None:
    """Refuses a picture over a limit of pixels or memory; one whose header says nothing is left to the decoder."""
    try:
        size, is_16_bit = _header(path)
    except CellSegError:
        return
    pixels = size[0] * size[1]
    if pixels > limit:
        raise CellSegError(f"{path}: is {size_text(size)}, over the limit of {limit} pixels; {IN_PARTS}")
    scaled = 3 * pixels if is_16_bit else 0
    check_memory(path, size_text(size), 3 * pixels * (2 if is_16_bit else 1) + scaled + path.stat().st_size)


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Keeps OpenCV from logging a damaged file, because the error reports it in one line."""
    before = OPENCV_LOG.getLogLevel()
    OPENCV_LOG.setLogLevel(0)
    try:
        yield
    finally:
        OPENCV_LOG.setLogLevel(before)
