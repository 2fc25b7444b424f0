"""Text in pictures: titles and legends, whose letters have the same size whatever the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LETTERS = 24
"""The size of all letters in pixels."""

LINE_HEIGHT = 29
"""The height of a line of text in pixels: what this size's highest and lowest letters need."""

DOTS = "\N{HORIZONTAL ELLIPSIS}"

Key = tuple[NDArray[np.uint8], str]
"""An entry of a legend: a picture as high as a line of text, and what it means."""


def lettering(text: str, width: int | None = None) -> NDArray[np.uint8]:
    """Black text on white; the font covers most European languages.

    Args:
        text: one line.
        width: the result's width in pixels: longer text goes on in further lines, and a word that is longer is cut;
            None for one line that is as wide as it has to be.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    lines = [text] if width is None else _lines(text, width)
    wide = max(_length(line) for line in lines) if width is None else width
    strip = Image.new("RGB", (max(wide, 1), LINE_HEIGHT * len(lines)), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((0, LINE_HEIGHT * number), line, fill="black", font=_font())
    return np.asarray(strip, np.uint8)


def legend(entries: Sequence[Key], width: int) -> NDArray[np.uint8]:
    """A legend: its entries one after the other, in as many lines as they need; a name that is too long is cut.

    Args:
        entries: at least one.
        width: its width in pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    lines: list[list[NDArray[np.uint8]]] = [[]]
    used = 0
    for key, text in entries:
        entry = _entry(key, text, width)
        if lines[-1] and used + entry.shape[1] > width:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += entry.shape[1]
    return np.vstack([padded(np.hstack(line)[:, :width], (LINE_HEIGHT, width)) for line in lines])


def swatch(color: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square of a colour for a legend, (:data:`LINE_HEIGHT`, :data:`LINE_HEIGHT`, 3) uint8 RGB."""
    square = np.full((LINE_HEIGHT, LINE_HEIGHT, 3), 255, np.uint8)
    square[4:-4, 4:-4] = color
    return square


def padded(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture in the upper left corner of a white one of a (height, width)."""
    rest = [(0, all_of - part) for all_of, part in zip(size, picture.shape)]
    return np.pad(picture, [*rest, (0, 0)], constant_values=255)


def _entry(key: NDArray[np.uint8], text: str, width: int) -> NDArray[np.uint8]:
    room = max(width - key.shape[1] - LINE_HEIGHT, LINE_HEIGHT)
    gap = np.full((LINE_HEIGHT, LINE_HEIGHT // 2, 3), 255, np.uint8)
    return np.hstack([key, gap[:, ::2], lettering(_cut(text, room)), gap])


def _lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _length(longer) <= width or not lines[-1]:
            lines[-1] = _cut(longer, width)
        else:
            lines.append(_cut(word, width))
    return lines


def _cut(text: str, width: int) -> str:
    """A text without its middle, if it is longer: names of one folder often differ at the end."""
    if _length(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = text[: kept // 2] + DOTS + text[len(text) - (kept + 1) // 2 :]
        if _length(short) <= width:
            return short
    return DOTS


def _length(text: str) -> int:
    return math.ceil(_font().getlength(text))


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # for its font alone; it takes its time to load

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), LETTERS)
