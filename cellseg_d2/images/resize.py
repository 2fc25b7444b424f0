"""Changes the size of images with any number of channels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

AT_ONCE = 4
"""Channels that OpenCV resizes together; not every way takes more."""


def resized(image: NDArray[np.uint8], size: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    """An (H, W, C) image in another size.

    Args:
        image: uint8.
        size: (height, width).
        interpolation: OpenCV's, such as ``cv2.INTER_AREA``.
    """
    firsts = range(0, image.shape[2], AT_ONCE)
    groups = [np.ascontiguousarray(image[..., first : first + AT_ONCE]) for first in firsts]
    done = [cv2.resize(group, size[::-1], interpolation=interpolation).reshape(*size, -1) for group in groups]
    return np.asarray(done[0] if len(done) == 1 else np.concatenate(done, axis=2), np.uint8)
