"""A picture of an image of any size, made smaller as it is read, so that the image is never whole in memory."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.images.regions import ImageRegions
from cellseg_d2.images.resize import resized

LARGEST_PICTURE = 10**8
"""Pixels of an RGB image up to which a picture has all of them."""

BLOCK_SIDE = 2048
"""About the side of the squares that are read at once."""


def overview(image: ImageRegions, width: int) -> NDArray[np.uint8]:
    """The image as it is up to :data:`LARGEST_PICTURE`; a larger one is made smaller by a whole number.

    Args:
        image: read by windows, all of it.
        width: a larger image's picture has at least this width, if that leaves it below the limit.

    Returns:
        (h, w, C) uint8; a pixel of a smaller picture is the mean of those that it stands for.
    """
    rows, columns = image.size
    too_large = rows * columns * image.channels / (3 * LARGEST_PICTURE)
    if too_large <= 1:
        return image.read((0, 0, columns, rows))
    step = max(columns // width, math.ceil(too_large**0.5))
    picture = np.empty((-(-rows // step), -(-columns // step), image.channels), np.uint8)
    side = max(BLOCK_SIDE // step, 1) * step
    for y in range(0, rows, side):
        for x in range(0, columns, side):
            block = image.read((x, y, min(x + side, columns), min(y + side, rows)))
            size = -(-block.shape[0] // step), -(-block.shape[1] // step)
            missing = [(0, length * step - there) for length, there in zip(size, block.shape)]
            block = np.pad(block, [*missing, (0, 0)], mode="edge")  # the last row and column of squares may be cut
            top, left = y // step, x // step
            picture[top : top + size[0], left : left + size[1]] = resized(block, size, cv2.INTER_AREA)
    return picture
