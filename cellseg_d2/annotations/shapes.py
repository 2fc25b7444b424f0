"""Annotated objects of one image -> label maps: overlaps go to further maps, and what is left out is counted and named.

Formats whose annotations are outlines, or a mask per object, make :class:`Shape` objects of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.rle import paint_pixels

logger = logging.getLogger(__name__)

Ring = NDArray[np.float64]
"""(V, 2), x and y of the corners of a closed line; whether the first is repeated at the end makes no difference."""

Pixels = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows and columns, none twice."""

Box = tuple[float, float, float, float]

LARGEST_NUMBER = 2**30
"""Larger numbers are no labels, which 32 bits hold."""

NAMED = 5
"""So many objects are named in a message, of the others the number."""


@dataclass(frozen=True, eq=False)
class Shape:
    """One object.

    Attributes:
        name: what messages call it.
        category: its class, 1, 2, ...
        pixels: those of the image that it covers.
        box: (x0, y0, x1, y1) of all of it, also outside the image; half open. None where there is nothing of it.
        label: its value in label maps, above 0 and not that of another object; None numbers it by its place.
    """

    name: str
    category: int
    pixels: Pixels
    box: Box | None
    label: int | None = None

    @classmethod
    def of_rings(
        cls,
        name: str,
        category: int,
        rings: Sequence[Ring],
        size: tuple[int, int],
        label: int | None = None,
        centre: float = 0.5,
    ) -> Shape:
        """An object that outlines enclose, holes included, see :func:`inside_rings`; ``size`` is the image's."""
        return cls(name, category, inside_rings(rings, size, centre), _box(rings), label)

    @classmethod
    def of_ellipse(cls, name: str, category: int, box: Box, size: tuple[int, int], label: int | None = None) -> Shape:
        """An ellipse with upright axes that fills a box: the pixels whose centres are inside."""
        return cls(name, category, inside_ellipse(box, size), box, label)

    @classmethod
    def of_mask(
        cls,
        name: str,
        category: int,
        mask: NDArray[np.bool_],
        size: tuple[int, int],
        origin: tuple[int, int] = (0, 0),
        label: int | None = None,
    ) -> Shape:
        """An object from a mask whose first pixel is ``origin``, (x, y), in an image of ``size``."""
        rows, columns = (places.astype(np.int64) for places in np.nonzero(mask))
        rows, columns = rows + origin[1], columns + origin[0]
        corners = np.stack([columns, rows], axis=1).astype(np.float64)
        ends: NDArray[np.float64] = corners + np.float64(1)
        box = _box([corners, ends]) if len(rows) else None
        inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
        return cls(name, category, (rows[inside], columns[inside]), box, label)

    @classmethod
    def union(cls, parts: Sequence[Shape], size: tuple[int, int]) -> Shape:
        """The parts of one object, all of one class; named and labelled as the first."""
        mask = cover(parts, size)
        boxes = np.array([part.box for part in parts if part.box is not None]).reshape(-1, 4)
        box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()) if len(boxes) else None
        rows, columns = np.nonzero(mask)
        return cls(parts[0].name, parts[0].category, (rows, columns), box, parts[0].label)


def cover(shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool, the pixels of any of some objects."""
    mask = np.zeros(size, bool)
    for shape in shapes:
        mask[shape.pixels] = True
    return mask


def inside_rings(rings: Sequence[Ring], size: tuple[int, int], centre: float = 0.5) -> Pixels:
    """The pixels of an image whose centres lie inside outlines. All outlines become pixels here, but for COCO's.

    The rule is the even-odd one over all rings together, so that a ring inside another is a hole. Of centres on an
    outline those on its left and upper side are inside, so that outlines with a common border share no pixel and leave
    none out. Memory follows the part of the outlines' box that lies in the image.

    Args:
        rings: the outlines in pixels; those of fewer than three corners enclose nothing.
        size: (height, width).
        centre: where a pixel's centre lies from its number: 0.5 where pixel x covers x .. x + 1, as in QuPath, ImageJ
            and LabelMe; 0 where coordinates are those of the centres, as in MoNuSAC.

    >>> square = np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])
    >>> rows, columns = inside_rings([square], (4, 4))
    >>> list(zip(rows.tolist(), columns.tolist()))
    [(0, 1), (0, 2), (1, 1), (1, 2)]
    """
    none = np.zeros(0, np.int64)
    shifted = [ring - centre for ring in rings if len(ring) > 2]
    if not shifted:
        return none, none
    first = np.concatenate(shifted)
    second = np.concatenate([np.roll(ring, -1, axis=0) for ring in shifted])
    low = np.ceil(np.clip(first.min(axis=0), 0, size[::-1])).astype(np.int64)
    high = np.ceil(np.clip(first.max(axis=0), 0, size[::-1])).astype(np.int64)
    if (low >= high).any():
        return none, none
    # An edge crosses the rows from its upper end on, that of its lower end left out, so that each corner counts once.
    above, below = np.minimum(first[:, 1], second[:, 1]), np.maximum(first[:, 1], second[:, 1])
    top, foot = (np.ceil(np.clip(ends, low[1], high[1])).astype(np.int64) for ends in (above, below))
    edge = np.repeat(np.arange(len(first)), foot - top)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(foot - top) - foot, foot - top)
    start, step = first[edge], second[edge] - first[edge]
    crossing = start[:, 0] + (row - start[:, 1]) * step[:, 0] / step[:, 1]
    column = np.ceil(np.clip(crossing, low[0], high[0])).astype(np.int64) - low[0]
    toggles = np.zeros((high[1] - low[1], high[0] - low[0] + 1), np.int64)
    np.add.at(toggles, (row - low[1], column), 1)
    y, x = np.nonzero(toggles.cumsum(axis=1)[:, :-1] % 2)
    return y + low[1], x + low[0]


def inside_ellipse(box: Box, size: tuple[int, int]) -> Pixels:
    """The pixels of an image whose centres lie inside, or on, the ellipse that fills a box, (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    left, right = (int(np.clip(np.floor(edge), 0, size[1])) for edge in (x0, x1 + 1))
    top, foot = (int(np.clip(np.floor(edge), 0, size[0])) for edge in (y0, y1 + 1))
    x = (2 * np.arange(left, right) + 1 - x0 - x1) / (x1 - x0)
    y = (2 * np.arange(top, foot) + 1 - y0 - y1) / (y1 - y0)
    rows, columns = np.nonzero(y[:, None] ** 2 + x**2 <= 1)
    return rows + top, columns + left


def _box(rings: Sequence[Ring]) -> Box | None:
    corners = np.concatenate([np.zeros((0, 2)), *rings])
    if not len(corners):
        return None
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (x0, y0, x1, y1)


def labels_of(numbers: Sequence[int | None]) -> list[int]:
    """Labels, no two alike, of objects of which some have numbers, as those that ``predict`` wrote.

    The first object of a number from 1 on keeps it. All others, such as those that were drawn since, get higher ones,
    so that the number of an object that was removed goes to a new one only if it was the highest.

    >>> labels_of([5, None, 5, 2]), labels_of([None, None])
    ([5, 6, 7, 2], [1, 2])
    """
    places: dict[int, int] = {}
    for place, number in enumerate(numbers):
        if number is not None and 0 < number <= LARGEST_NUMBER:
            places.setdefault(number, place)
    free = count(max(places, default=0) + 1)
    kept = {place: number for number, place in places.items()}
    return [kept[place] if place in kept else next(free) for place in range(len(numbers))]


def paint_shapes(source: Path, shapes: Sequence[Shape], size: tuple[int, int]) -> list[LabelMap]:
    """The label maps of an image's objects, those of one class in as many as its overlaps need.

    What has no pixel is left out, and what reaches outside the image is cut there; one warning counts and names them.

    Args:
        source: the file of the annotations, for the warning.
        shapes: the objects.
        size: (height, width) of the image.
    """
    report_losses(source, shapes, size)
    maps = []
    for category in sorted({shape.category for shape in shapes}):
        places = [place for place, shape in enumerate(shapes) if shape.category == category]
        places = [place for place in places if len(shapes[place].pixels[0])]
        if not places:
            continue
        pixels = [shapes[place].pixels for place in places]
        flat = np.concatenate([columns * size[0] + rows for rows, columns in pixels])
        owners = np.repeat(np.arange(len(places)), [len(rows) for rows, _ in pixels])
        labels = np.array([0, *(shapes[place].label or place + 1 for place in places)], np.int32)
        layers, _ = paint_pixels(flat, owners, len(places), size)
        maps += [LabelMap((category,), labels[layer]) for layer in layers]
    return maps


def report_losses(source: Path, shapes: Sequence[Shape], size: tuple[int, int]) -> None:
    """Warns once of the objects that lie outside an image, reach outside it, or have no pixel."""
    fates: dict[str, list[str]] = {}
    for shape in shapes:
        if fate := _fate(shape, size):
            fates.setdefault(fate, []).append(shape.name)
    if fates:
        notes = "; ".join(f"{named(names)} {fate}" for fate, names in sorted(fates.items()))
        logger.warning("%s: of %d objects %s", source, len(shapes), notes)


def _fate(shape: Shape, size: tuple[int, int]) -> str:
    x0, y0, x1, y1 = shape.box or (0, 0, 0, 0)
    if shape.box and (x1 <= 0 or y1 <= 0 or x0 >= size[1] or y0 >= size[0]):
        return "outside the image and left out"
    if not len(shape.pixels[0]):
        return "without a pixel and left out"
    return "cut at the image's edge" if x0 < 0 or y0 < 0 or x1 > size[1] or y1 > size[0] else ""


def named(names: Iterable[str]) -> str:
    """How many, and the first ones by name.

    >>> named(["a", "b"])
    '2 (a, b)'
    """
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return f"{len(listed)} ({', '.join(listed[:NAMED])}{more})"
