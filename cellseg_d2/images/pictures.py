"""PNG and JPEG -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS, IntensityRule, check_file

EXIF_ORIENTATION = 0x0112
EXIF_QUARTER_TURNS = range(5, 9)
"""EXIF orientations that exchange the stored width and height."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_picture(path: Path, rule: str = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads a picture in any format that OpenCV knows; follows the EXIF orientation and drops an alpha channel.

    Args:
        path: the file.
        rule: how 16-bit pictures are scaled, see :class:`cellseg_d2.images.tiff.IntensityRule`.
        max_pixels: larger pictures are refused; OpenCV itself decodes none above 2**30.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CellSegError: missing, damaged or too large.
    """
    check_file(path)
    try:
        with _opencv_silent():
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error as error:
        reason = getattr(error, "err", None) or one_line(error)  # the full message is mostly a path in OpenCV's source
        raise CellSegError(f"{path}: cannot be read as an image ({reason}); export it again") from error
    except MemoryError as error:
        raise CellSegError(f"{path}: does not fit into memory") from error
    if pixels is None:
        raise CellSegError(f"{path}: cannot be read as an image; export it again")
    height, width = pixels.shape[:2]
    if height * width > max_pixels:
        raise CellSegError(f"{path}: is {height} x {width}, over the limit of {max_pixels} pixels")
    return IntensityRule.parse(rule).apply(np.ascontiguousarray(pixels[..., ::-1]))


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as :func:`read_picture` gives it, from its header alone.

    Raises:
        CellSegError: missing, or the header cannot be read.
    """
    check_file(path)
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(EXIF_ORIENTATION, 1) in EXIF_QUARTER_TURNS
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CellSegError(f"{path}: cannot be read as an image ({one_line(error)}); export it again") from error
    return (width, height) if turned else (height, width)


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Keeps OpenCV from logging a damaged file, because the error reports it in one line."""
    if not hasattr(cv2, "setLogLevel"):
        yield
        return
    before = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(before)
