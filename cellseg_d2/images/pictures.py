"""PNG and JPEG -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.channels import PixelRule, Rule, picked_of_rgb
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS, IntensityRule, check_file

EXIF_ORIENTATION = 0x0112
EXIF_QUARTER_TURNS = range(5, 9)
"""EXIF orientations that exchange the stored width and height."""

OPENCV_LOG = getattr(cv2.utils, "logging", cv2)
"""Where OpenCV keeps ``getLogLevel`` and ``setLogLevel``: OpenCV 5 moved them."""

PILLOW_READERS: dict[bytes, Callable[[Path], Image.Image]] = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
}
"""By the first bytes of a file."""

MOST_PIXELS = 2**30
"""OpenCV decodes no larger picture."""

IN_PARTS = "save it as a tiled TIFF, of which only parts are decoded"

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_picture(path: Path, rule: Rule = INTENSITY_RULE, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads a picture in any format that OpenCV knows; follows the EXIF orientation and drops an alpha channel.

    Args:
        path: the file.
        rule: how 16-bit pictures are scaled, see :class:`cellseg_d2.images.tiff.IntensityRule`, and which of the
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
        fix = IN_PARTS if "MAX_IMAGE" in reason else "export it again"
        raise CellSegError(f"{path}: cannot be read as an image ({reason}); {fix}") from error
    except MemoryError as error:
        raise CellSegError(f"{path}: does not fit into memory; {IN_PARTS}") from error
    if pixels is None:
        raise CellSegError(f"{path}: cannot be read as an image; export it again")
    wanted = PixelRule.of(rule)
    pixels = picked_of_rgb(path, np.ascontiguousarray(pixels[..., ::-1]), wanted)
    return IntensityRule.parse(wanted.intensity).apply(pixels, apart=bool(wanted.channels))


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as :func:`read_picture` gives it, from its header alone.

    Raises:
        CellSegError: missing, or the header cannot be read.
    """
    check_file(path)
    try:
        with _opened(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(EXIF_ORIENTATION, 1) in EXIF_QUARTER_TURNS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CellSegError(f"{path}: cannot be read as an image ({one_line(error)}); export it again") from error
    return (width, height) if turned else (height, width)


def _opened(path: Path) -> Image.Image:
    """A picture whose header is read; Pillow's ``open`` would refuse one for being large."""
    with path.open("rb") as file:
        start = file.read(4)
    kind = next((kind for magic, kind in PILLOW_READERS.items() if start.startswith(magic)), None)
    return Image.open(path) if kind is None else kind(path)


def _check_size(path: Path, limit: int) -> None:
    """Refuses a picture over a limit of pixels; one whose header says nothing is left to the decoder."""
    try:
        height, width = picture_size(path)
    except CellSegError:
        return
    if height * width > limit:
        raise CellSegError(f"{path}: is {height} x {width}, over the limit of {limit} pixels; {IN_PARTS}")


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Keeps OpenCV from logging a damaged file, because the error reports it in one line."""
    before = OPENCV_LOG.getLogLevel()
    OPENCV_LOG.setLogLevel(0)
    try:
        yield
    finally:
        OPENCV_LOG.setLogLevel(before)
