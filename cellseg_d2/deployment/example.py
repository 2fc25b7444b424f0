"""Drawn cells: the example that a model is traced with, and that its description shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 256
"""Pixels of a side of the image."""

SPACING = 40
"""Pixels between the centres of neighbouring cells."""


def drawn_cells(is_dark: bool) -> NDArray[np.uint8]:
    """(256, 256, 3) uint8: soft grey discs of several sizes, on black or on white; the same each time."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for row in range(SPACING // 2, SIDE, SPACING):
        for column in range(SPACING // 2, SIDE, SPACING):
            centre = np.array([row, column]) + random.uniform(-5, 5, 2)
            radii = random.uniform(6, 14, 2)
            inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2
            image = np.maximum(image, random.uniform(0.6, 0.9) / (1 + np.exp(np.minimum(8 * (inside - 1), 50))))
    image = np.clip(image + random.normal(0.05, 0.02, image.shape), 0, 1)
    grey = np.rint(255 * (image if is_dark else 1 - image)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
