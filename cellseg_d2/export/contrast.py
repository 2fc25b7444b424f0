"""Contrast for people's eyes: dark images are brightened where they are shown, and nowhere else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.images.intensity import BAND_PIXELS, IntensityRule
from cellseg_d2.images.percentiles import percentiles

DARK = 64
"""An image is dark if its median is below this, of 255: fluorescence, whose background is black."""

SHARES = (0.1, 99.8)
"""The percentiles of a dark image that become black and white."""

LEAST_RANGE = 24
"""A range below this is not stretched to all of 0 .. 255, because an empty image would become loud noise."""


def stretched(image: NDArray[np.uint8], like: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """A dark image with its contrast stretched; any other as it is. All channels get the same range.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        like: the image whose range is stretched, for copies that are to be compared with it: a copy of an image that is
            not dark stays as it is. None for ``image``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    limits = _limits(image)
    if limits is not None and like is not None:
        limits = _limits(like)
    if limits is None:
        return image
    table = IntensityRule.scale(np.arange(256, dtype=np.uint16), limits)  # it leaves 8 bit as it is
    return table[image]


def _limits(image: NDArray[np.uint8]) -> tuple[float, float] | None:
    """The intensities of a dark image that become black and white; None for any other."""
    flat = image.reshape(-1)
    firsts = range(0, flat.size, BAND_PIXELS)
    low, median, high = percentiles(
        lambda: (flat[first : first + BAND_PIXELS] for first in firsts), flat.size, (SHARES[0], 50, SHARES[1])
    )
    return (low, max(high, low + LEAST_RANGE)) if median < DARK else None
