"""Sheets of pictures for a talk: titled panels in lines that are all equally wide, so that there are no holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.export.lettering import Key, legend, lettering, padded
from cellseg_d2.export.overlay import WIDEST

HEIGHT, TALLEST = 400, 1000
"""Pixels: the height that lines are to come near, and the greatest height of a line that is alone."""

GAP, GROUP_GAP = 8, 24
"""White pixels between panels, and between groups of panels."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Panel:
    """A picture of a sheet.

    Attributes:
        title: what it shows; a long one takes several lines.
        size: the size that the picture would have by itself, which gives its shape.
        draw: draws it in a size, as (H, W, 3) uint8 RGB.
    """

    title: str
    size: Size
    draw: Callable[[Size], NDArray[np.uint8]]

    @property
    def shape(self) -> float:
        """Its width by its height."""
        return self.size[1] / self.size[0]

    def titled(self, size: Size, title_height: int = 0) -> NDArray[np.uint8]:
        """It in a size, below its title, which takes at least so many pixels."""
        title = lettering(self.title, size[1])
        return np.vstack([_on_white(title, max(title_height, len(title))), self.draw(size)])


def draw_sheet(groups: Sequence[Sequence[Panel]], keys: Sequence[Key] = (), width: int = WIDEST) -> NDArray[np.uint8]:
    """Draws groups of panels, one after the other, below a legend.

    The panels of a line have one height, and a group is never divided.

    Args:
        groups: at least one, each with a panel.
        keys: the legend's entries; none leaves it out.
        width: the sheet's width in pixels; where all fits into one line, the sheet may be narrower.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    lines = lines_of([sum(panel.shape for panel in group) for group in groups], width / HEIGHT)
    if len(lines) == 1:
        panels = [panel for group in groups for panel in group]
        tall = min(max(HEIGHT, *(panel.size[0] for panel in panels)), TALLEST)
        gaps = GAP * (len(panels) + 1) + (GROUP_GAP - GAP) * (len(groups) - 1)
        width = min(width, math.ceil(sum(panel.shape for panel in panels) * tall) + gaps)
    return stacked([_line([groups[number] for number in line], width - 2 * GAP) for line in lines], keys)


def lines_of(shapes: Sequence[float], wanted: float) -> list[range]:
    """Divides a sequence into lines: which items each has.

    Args:
        shapes: the width by height of each item.
        wanted: the wanted width of a line; all come as near to it as they can.
    """
    best: list[tuple[float, list[range]]] = [(0.0, [])]
    for end in range(1, len(shapes) + 1):
        tried = []
        for start in range(end):
            cost, lines = best[start]
            error = math.log(sum(shapes[start:end]) / wanted)
            tried.append((cost + error**2, [*lines, range(start, end)]))
        best.append(min(tried, key=lambda found: found[0]))
    return best[-1][1]


def draw_block(first: Panel, others: Sequence[Panel], title: str, width: int = WIDEST) -> NDArray[np.uint8]:
    """Draws one panel large, and beside it others in rows that together are as high, below a title.

    Args:
        first: the large one.
        others: at least one; their titles are not shown.
        title: the title of the other blocks.
        width: the width of the sheet that the block is for, in pixels.
    """
    count = max(math.isqrt(len(others) // 2), 1)
    shapes = [panel.shape for panel in others]
    rows = [others[line.start : line.stop] for line in lines_of(shapes, sum(shapes) / count)]
    wide, tall = _block_size(first, rows, width - 2 * GAP)
    if tall > TALLEST:
        wide, tall = _block_size(first, rows, round((width - 2 * GAP) * TALLEST / tall))
    drawn = [beside([panel.draw(size) for panel, size in zip(row, _sizes(row, wide))]) for row in rows]
    right = under(drawn)
    left = first.titled((len(right), max(round(first.shape * tall), 1)))
    text = lettering(title, right.shape[1])
    lines = max(len(left) - len(right), len(text))
    right = np.vstack([_on_white(text, lines), right])
    return beside([_on_white(left, len(right)), right], GROUP_GAP)


def _block_size(first: Panel, rows: Sequence[Sequence[Panel]], width: int) -> tuple[int, float]:
    """The width of the rows of a block, and its height: with them the panel beside the rows keeps its shape."""
    steps = [1 / sum(panel.shape for panel in row) for row in rows]  # by which a row gets higher if it gets wider
    gaps = GAP * (len(rows) - 1) - sum(GAP * (len(row) - 1) * step for row, step in zip(rows, steps))
    wide = (width - GROUP_GAP - first.shape * gaps) / (1 + first.shape * sum(steps))
    return max(int(wide), 1), wide * sum(steps) + gaps


def stacked(lines: Sequence[NDArray[np.uint8]], keys: Sequence[Key] = ()) -> NDArray[np.uint8]:
    """Lines, one below the other with a white rim, below a legend."""
    width = max(line.shape[1] for line in lines)
    parts = [legend(keys, width), *lines] if keys else lines
    sheet = under([padded(part, (len(part), width)) for part in parts])
    return np.pad(sheet, [(GAP, GAP), (GAP, GAP), (0, 0)], constant_values=255)


def under(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one width, one below the other with white pixels between them."""
    gap = np.full((GAP, pictures[0].shape[1], 3), 255, np.uint8)
    return np.vstack([part for picture in pictures for part in (picture, gap)][:-1])


def beside(pictures: Sequence[NDArray[np.uint8]], space: int = GAP) -> NDArray[np.uint8]:
    """Pictures of one height in a line, with white pixels between them."""
    gap = np.full((len(pictures[0]), space, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def _line(groups: Sequence[Sequence[Panel]], width: int) -> NDArray[np.uint8]:
    """Groups of titled panels in a line."""
    panels = [panel for group in groups for panel in group]
    sizes = _sizes(panels, width - (GROUP_GAP - GAP) * (len(groups) - 1))
    above = max(len(lettering(panel.title, size[1])) for panel, size in zip(panels, sizes))
    pictures = iter([panel.titled(size, above) for panel, size in zip(panels, sizes)])
    return beside([beside([next(pictures) for _ in group]) for group in groups], GROUP_GAP)


def _sizes(panels: Sequence[Panel], width: int) -> list[Size]:
    """The sizes of panels in a line: one height, and together with the gaps between them the width."""
    room = width - GAP * (len(panels) - 1)
    height = room / sum(panel.shape for panel in panels)
    ends = np.rint(np.cumsum([0.0, *(panel.shape * height for panel in panels)])).astype(int)
    return [(max(round(height), 1), max(int(wide), 1)) for wide in np.diff(ends)]


def _on_white(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """A picture at the lower edge of a white one that is as wide."""
    return np.pad(picture, [(height - len(picture), 0), (0, 0), (0, 0)], constant_values=255)
