"""Parts of pictures of cells: titles, legends, smaller copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cellseg_d2.export.overlay import class_color, draw_grid

LETTERS = 12
"""The size of the smallest letters in pixels."""

WIDTH_IN_LETTERS = 45
"""Letters grow with pictures that are wider than this number of letters, since these are viewed from farther away."""


def titled(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """A line of text above a (H, W, 3) uint8 RGB picture; as wide as the wider of the two."""
    return stacked([lettering(text, _size(picture.shape[1])), picture])


def legend(names: Sequence[str], counts: Sequence[int], width: int) -> NDArray[np.uint8]:
    """A legend with the colour, name and number of cells of each class, in columns.

    Args:
        names: the names of class 0, 1, ...; at least one.
        counts: cells per class.
        width: width in pixels of the picture that it belongs to; a longer name makes it wider.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    entries = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        text = lettering(f"{name}: {count}", _size(width // 2))  # it belongs to a row of at least two pictures
        side = len(text)
        gap = np.full((side, side // 2, 3), 255, np.uint8)
        entries.append(np.hstack([np.full((side, side, 3), class_color(number)), gap, text, gap]))
    return draw_grid(entries, columns=max(width // max(entry.shape[1] for entry in entries), 1))


def stacked(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """RGB pictures of any sizes, one below the other, aligned left on white."""
    width = max(picture.shape[1] for picture in pictures)
    return np.vstack(
        [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in pictures]
    )


def shrunk(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A (H, W, 3) uint8 picture, reduced if a side is longer than ``side`` pixels."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(scale * width), 1), max(round(scale * height), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def lettering(text: str, size: int) -> NDArray[np.uint8]:
    """A line of black text on white, (H, W, 3) uint8; the font covers most European languages."""
    font = _font(size)
    strip = Image.new("RGB", (math.ceil(font.getlength(text)), sum(font.getmetrics())), "white")
    ImageDraw.Draw(strip).text((0, 0), text, fill="black", font=font)
    return np.asarray(strip, np.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _size(width: int) -> int:
    return max(width // WIDTH_IN_LETTERS, LETTERS)
