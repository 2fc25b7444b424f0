"""Cells drawn over their image, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.lettering import Key, legend, swatch
from cellseg_d2.files import whole_file

# Okabe and Ito's palette, which the colour-blind tell apart (Color Universal Design, 2008), as RGB.
PALETTE = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
    np.uint8,
)

WIDEST = 2400
"""The most pixels of a picture's width; wider images are shown smaller."""

LINE = 2
"""The width in pixels of outlines in pictures that are made for people."""


def class_color(number: int) -> NDArray[np.uint8]:
    """RGB of a class; colours repeat after seven classes."""
    color: NDArray[np.uint8] = PALETTE[number % len(PALETTE)]
    return color


def class_hex(number: int) -> str:
    """:func:`class_color` as a page writes it, ``#rrggbb``."""
    return "#" + class_color(number).tobytes().hex()


def draw_overlay(
    image: NDArray[np.uint8],
    instances: CellInstances,
    opacity: float = 0.35,
    *,
    size: tuple[int, int] | None = None,
    line: int = 1,
) -> NDArray[np.uint8]:
    """Fills each mask with its class's colour and draws its outline; the best cell of overlapping ones lies on top.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        instances: cells of this image.
        opacity: the filling's opacity in [0, 1]; outlines are opaque.
        size: (height, width) of the picture, whose outlines are as wide as in any other; None for that of the image.
        line: the width of the outlines in pixels of the picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    size = size or instances.image_size
    drawn = resized(image, size).copy()
    around = np.ones((2 * line + 1, 2 * line + 1), np.uint8)
    for number in instances.ranking[::-1]:
        mask, (x, y) = _resized_mask(instances, number, size)
        color = class_color(int(instances.classes[number]))
        part = drawn[y : y + mask.shape[0], x : x + mask.shape[1]]
        part[mask] = np.rint((1 - opacity) * part[mask] + opacity * color).astype(np.uint8)
        inner = cv2.erode(np.pad(mask, line).astype(np.uint8), around)[line:-line, line:-line].astype(bool)
        part[mask & ~inner] = color
    return drawn


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A (H, W, 3) uint8 picture in another (height, width)."""
    if picture.shape[:2] == size:
        return picture
    way = cv2.INTER_AREA if size[0] < picture.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=way), np.uint8)


def _resized_mask(instances: CellInstances, number: int, size: tuple[int, int]) -> tuple[Bools, tuple[int, int]]:
    """A cell's mask in a picture of another size, and (x, y) of its first pixel there."""
    mask, (x, y) = instances.masks[number], instances.origins[number].tolist()
    if size == instances.image_size or not mask.size:
        return mask, (x, y)
    down, right = (new / old for new, old in zip(size, instances.image_size))
    x0, y0 = min(round(right * x), size[1] - 1), min(round(down * y), size[0] - 1)
    x1, y1 = round(right * (x + mask.shape[1])), round(down * (y + mask.shape[0]))
    shape = (max(x1 - x0, 1), max(y1 - y0, 1))
    way = cv2.INTER_AREA if right < 1 else cv2.INTER_LINEAR
    shares = cv2.resize(mask.astype(np.float32), shape, interpolation=way)
    return shares >= min(0.5, float(shares.max())), (x0, y0)


def class_keys(class_names: Sequence[str], counts: Sequence[int] | None = None) -> list[Key]:
    """Entries of a legend: the colour, the name and, where given, the number of cells of each class."""
    texts = class_names if counts is None else [f"{name}: {count}" for name, count in zip(class_names, counts)]
    return [(swatch(class_color(number)), text) for number, text in enumerate(texts)]


def write_overlay(
    path: Path, image: NDArray[np.uint8], instances: CellInstances, class_names: Sequence[str] = ()
) -> None:
    """Writes the image with its cells as PNG, above a legend with the number of cells of each class.

    Dark images are brightened, see :func:`cellseg_d2.export.contrast.stretched`; images wider than :data:`WIDEST` are
    shown smaller. Pixels of the picture are otherwise those of the image, or of the smaller picture that is given.

    Args:
        path: the PNG.
        image: (H, W, 3) uint8 RGB, or a smaller picture of all of it.
        instances: its cells.
        class_names: the names of class 0, 1, ...; without them there is no legend.

    Raises:
        CellSegError: it cannot be written.
    """
    height, width = instances.image_size
    shown = (max(round(height * WIDEST / width), 1), WIDEST) if width > WIDEST else (image.shape[0], image.shape[1])
    line = 1 if shown == (height, width) else LINE
    picture = draw_overlay(stretched(resized(image, shown)), instances, size=shown, line=line)
    if class_names:
        counts = np.bincount(instances.classes, minlength=len(class_names)).tolist()
        picture = np.vstack([picture, legend(class_keys(class_names, counts), shown[1])])
    write_picture(path, picture)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a (H, W, 3) uint8 RGB picture as PNG, with the folder it is to lie in.

    Raises:
        CellSegError: it cannot be written.
    """
    with whole_file(path) as partial:  # cv2.imwrite says nothing of a failure
        partial.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
