"""Cells drawn over their image, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.files import whole_file

# Okabe and Ito's palette, which the colour-blind tell apart (Color Universal Design, 2008), as RGB.
PALETTE = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
    np.uint8,
)

CROSS_ARMS = (3, 24)
"""Pixels from the middle of a cross to the sides of its square: seen on the smallest cell, not hiding a large one."""


def class_color(number: int) -> NDArray[np.uint8]:
    """RGB of a class; colours repeat after seven classes."""
    color: NDArray[np.uint8] = PALETTE[number % len(PALETTE)]
    return color


def class_hex(number: int) -> str:
    """:func:`class_color` as a page writes it, ``#rrggbb``."""
    return "#" + class_color(number).tobytes().hex()


def draw_overlay(image: NDArray[np.uint8], instances: CellInstances, opacity: float = 0.35) -> NDArray[np.uint8]:
    """Fills each mask with its class's colour and draws its outline; the best cell of overlapping ones lies on top.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        instances: cells of this image.
        opacity: the filling's opacity in [0, 1]; outlines are opaque.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = image.copy()
    for number in instances.ranking[::-1]:
        mask, (x, y) = instances.masks[number], instances.origins[number]
        color = class_color(int(instances.classes[number]))
        part = drawn[y : y + mask.shape[0], x : x + mask.shape[1]]
        part[mask] = np.rint((1 - opacity) * part[mask] + opacity * color).astype(np.uint8)
        framed = np.pad(mask, 1).astype(np.uint8)
        inner = cv2.erode(framed, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
        part[mask & ~inner] = color
    return drawn


def draw_crosses(picture: NDArray[np.uint8], instances: CellInstances, scale: float = 1.0) -> NDArray[np.uint8]:
    """Marks each cell with a white cross on black, which no class colour is, at the pixel farthest from its edge.

    Args:
        picture: (H, W, 3) uint8 RGB; it is not changed.
        instances: the cells to mark, of this image; each with a pixel.
        scale: pixels of the picture by pixels of the image, where it is shown smaller.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    marked = picture.copy()
    for mask, origin in zip(instances.masks, instances.origins.tolist()):
        _, radius, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5))
        x, y = (int(scale * (place + start - 1)) for place, start in zip(deepest, origin))
        arm = int(np.clip(0.6 * scale * radius, *CROSS_ARMS))
        thickness = max(arm // 8, 1)
        for color, width in (((0, 0, 0), 3 * thickness), ((255, 255, 255), thickness)):
            for side in (arm, -arm):
                cv2.line(marked, (x - arm, y - side), (x + arm, y + side), color, width)
    return marked


def write_overlay(path: Path, image: NDArray[np.uint8], instances: CellInstances) -> None:
    """Writes :func:`draw_overlay` as PNG."""
    write_picture(path, draw_overlay(image, instances))


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a (H, W, 3) uint8 RGB picture as PNG, with the folder it is to lie in.

    Raises:
        CellSegError: it cannot be written.
    """
    with whole_file(path) as partial:  # cv2.imwrite says nothing of a failure
        partial.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def draw_grid(images: Sequence[NDArray[np.uint8]], columns: int, gap: int = 4) -> NDArray[np.uint8]:
    """RGB images of any sizes side by side on white, row by row.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("a grid needs at least one image")
    height, width = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    shape = (rows * (height + gap) + gap, min(columns, len(images)) * (width + gap) + gap, 3)
    grid = np.full(shape, 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (place * side + gap for place, side in zip(divmod(number, columns), (height + gap, width + gap)))
        grid[y : y + image.shape[0], x : x + image.shape[1]] = image
    return grid
