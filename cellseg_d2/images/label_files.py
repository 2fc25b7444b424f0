"""Label maps as people keep them: TIFF, or PNG in grey or with a palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.images.memory import check_memory
from cellseg_d2.images.pictures import has_16_bit, header_errors, open_header
from cellseg_d2.images.planes import is_opaque
from cellseg_d2.images.tiff import (
    MAX_PIXELS,
    as_labels,
    check_file,
    only_image,
    opened,
    read_label_map,
    read_raw,
    upright,
)

LABEL_SUFFIXES = (".tif", ".tiff", ".png")


def read_label_file(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Reads an instance-label image: 0 is background, each other value one cell.

    Of a PNG the values themselves are the ids, of one with a palette its indices. Equal channels and an opaque alpha
    are dropped.

    Args:
        path: a TIFF, see :func:`cellseg_d2.images.tiff.read_label_map`, or a PNG.
        max_pixels: label maps that declare more pixels are refused from the header.

    Returns:
        (H, W) int32, values >= 0.

    Raises:
        CellSegError: missing, damaged, too large, of another format, or no label map.
    """
    if path.suffix.lower() not in LABEL_SUFFIXES:
        raise CellSegError(f"{path}: is neither TIFF nor PNG; save the label map as one, JPEG would change its ids")
    if path.suffix.lower() != ".png":
        return read_label_map(path, max_pixels)
    check_file(path)
    with header_errors(path, "a PNG"), open_header(path) as picture:
        size, channels = (picture.height, picture.width), len(picture.getbands())
        if picture.height * picture.width > max_pixels:
            raise CellSegError(f"{path}: is {size_text(size)}, over the limit of {max_pixels} pixels")
        if has_16_bit(picture) and channels > 1:  # Pillow would keep the high bytes
            raise CellSegError(f"{path}: has several channels of 16 bit; save the label map with one")
        # of 32 bit, as Pillow keeps some, and as the result
        check_memory(path, size_text(size), picture.height * picture.width * 4 * (channels + 1))
        pixels = np.asarray(picture)
    return as_labels(path, _only_channel(path, pixels))


def _only_channel(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] in (2, 4) and is_opaque(pixels[..., -1]):
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise CellSegError(f"{path}: its channels differ, so it is no label map; save one value a cell")
    return pixels[..., 0]


def plane_count(path: Path) -> int:
    """2 for a TIFF of two planes, 1 for all others, from the header alone.

    Raises:
        CellSegError: the TIFF cannot be read.
    """
    if path.suffix.lower() == ".png":
        return 1
    with opened(path) as file:
        sides = [side for side in only_image(path, file, None).shape if side > 1]
    return 2 if len(sides) == 3 and 2 in (sides[0], sides[-1]) else 1


def read_label_and_class(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The two planes of a TIFF, (2, H, W) or (H, W, 2): labels, and each pixel's class number, 0 for none.

    Raises:
        CellSegError: it cannot be read, has not two planes, or one of them holds no whole numbers from 0 on.
    """
    if plane_count(path) != 2:
        raise CellSegError(f"{path}: has not two planes, as other label maps have; save the labels and their classes")
    raw = read_raw(path, max_pixels, is_label_map=True)
    pixels = raw.pixels.squeeze()
    labels, classes = (
        as_labels(path, upright(plane, "YX", raw.turn))
        for plane in np.moveaxis(pixels, 0 if pixels.shape[0] == 2 else -1, 0)
    )
    return labels, classes
