"""Panels of sheets: an image, and an image with its cells."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.errors import counted
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.marks import draw_marks
from cellseg_d2.export.overlay import LINE, draw_overlay, resized
from cellseg_d2.report.sheet import TALLEST, Panel, Size

KEPT = 2 * TALLEST
"""The largest side in pixels of an image that is kept for a panel; larger ones are reduced when the panel is made."""


def image_panel(title: str, image: NDArray[np.uint8]) -> Panel:
    """An image, (H, W, 3) uint8 RGB; a dark one is brightened."""
    kept = shrunk(stretched(image), KEPT)
    return Panel(title, size_of(image), lambda size: resized(kept, size))


def cell_panel(
    title: str, image: NDArray[np.uint8], cells: CellInstances, kind: str = "", marked: CellInstances | None = None
) -> Panel:
    """An image with its cells.

    Args:
        title: what it shows.
        image: (H, W, 3) uint8 RGB; a dark one is brightened.
        cells: the cells of this image.
        kind: how ``marked`` are marked, see :mod:`cellseg_d2.export.marks`.
        marked: the cells with a mark; None for none.
    """
    kept = shrunk(stretched(image), KEPT)

    def draw(size: Size) -> NDArray[np.uint8]:
        drawn = draw_overlay(kept, cells, size=size, line=LINE)
        return drawn if marked is None else draw_marks(drawn, marked, kind, size[1] / image.shape[1])

    return Panel(title, size_of(image), draw)


def count_text(cells: int) -> str:
    """A number of cells for a title; a picture without cells says so."""
    return counted(cells, "cell") if cells else "no cells"


def size_of(image: NDArray[np.uint8]) -> Size:
    """(height, width) of an image."""
    return image.shape[0], image.shape[1]


def shrunk(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A (H, W, 3) uint8 picture, reduced if a side is longer than ``side`` pixels."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(scale * width), 1), max(round(scale * height), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
