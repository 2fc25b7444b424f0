"""Marks of wrong cells: a ring on a missed one, a cross on a spurious one, white on black, which no class colour is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.lettering import LINE_HEIGHT

MISSED, SPURIOUS = "missed", "spurious"
"""The kinds of marks."""

ARMS = (5.0, 24.0)
"""Pixels from the middle of a mark to its sides: seen on the smallest cell, not hiding a large one."""

STEM = 0.3
"""The width of a mark's strokes as a share of its arms."""


def place_of(mask: Bools, origin: Ints, scale: float = 1.0) -> tuple[float, float, float]:
    """(x, y) of a mark's middle, the cell's pixel farthest from its edge, and its arm, in pixels of the picture.

    Args:
        mask: (h, w) bool, with a pixel.
        origin: (x, y) of its first pixel in the image.
        scale: pixels of the picture by pixels of the image, where it is shown smaller or larger.
    """
    _, radius, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5))
    x, y = (scale * (place + start - 0.5) for place, start in zip(deepest, origin.tolist()))
    return x, y, float(np.clip(0.6 * scale * radius, *ARMS))


def draw_marks(
    picture: NDArray[np.uint8], instances: CellInstances, kind: str, scale: float = 1.0
) -> NDArray[np.uint8]:
    """Marks cells.

    Args:
        picture: (H, W, 3) uint8 RGB; it is not changed.
        instances: the cells to mark, of this image; each with a pixel.
        kind: :data:`MISSED` or :data:`SPURIOUS`.
        scale: pixels of the picture by pixels of the image.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    marked = picture.copy()
    for mask, origin in zip(instances.masks, instances.origins):
        x, y, arm = place_of(mask, origin, scale)
        _draw(marked, int(x), int(y), round(arm), kind)
    return marked


def mark_swatch(kind: str) -> NDArray[np.uint8]:
    """A mark for a legend, (:data:`LINE_HEIGHT`, :data:`LINE_HEIGHT`, 3) uint8 RGB."""
    square = np.full((LINE_HEIGHT, LINE_HEIGHT, 3), 255, np.uint8)
    square[2:-2, 2:-2] = 150
    _draw(square, LINE_HEIGHT // 2, LINE_HEIGHT // 2, 7, kind)
    return square


def mark_path(kind: str, x: float, y: float, arm: float) -> str:
    """A mark as SVG path data, to be filled by the even-odd rule; rounded to tenths of a pixel."""
    stem = STEM * arm / 2
    if kind == MISSED:
        return _circle(x, y, arm) + _circle(x, y, arm - 2 * stem)
    # a plus, turned by 45 degrees
    turned = [((u - v) * 0.5**0.5, (u + v) * 0.5**0.5) for u, v in _plus(2**0.5 * arm, stem)]
    return "M" + "L".join(f"{x + u:.1f} {y + v:.1f}" for u, v in turned) + "z"


def _draw(picture: NDArray[np.uint8], x: int, y: int, arm: int, kind: str) -> None:
    thickness = max(round(STEM * arm), 1)
    for color, width in (((0, 0, 0), thickness + 2 * max(thickness // 2, 1)), ((255, 255, 255), thickness)):
        if kind == MISSED:
            cv2.circle(picture, (x, y), arm, color, width, cv2.LINE_AA)
        else:
            for side in (arm, -arm):
                cv2.line(picture, (x - arm, y - side), (x + arm, y + side), color, width, cv2.LINE_AA)


def _circle(x: float, y: float, radius: float) -> str:
    half = f"a{radius:.1f} {radius:.1f} 0 0 1"
    return f"M{x - radius:.1f} {y:.1f}{half} {2 * radius:.1f} 0{half} {-2 * radius:.1f} 0z"


def _plus(arm: float, stem: float) -> list[tuple[float, float]]:
    quarter = [(arm, -stem), (arm, stem), (stem, stem)]
    corners = list(quarter)
    for _ in range(3):
        quarter = [(-v, u) for u, v in quarter]
        corners += quarter
    return corners
