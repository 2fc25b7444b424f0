"""Shapes of many cells at once, as ``skimage.measure.regionprops`` measures them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.images.regions import ImageRegions

AT_ONCE = 2**18
"""Pixels of cells' boxes that are measured together: some 200 bytes are needed for each."""

LARGEST_WINDOW = 2**22
"""Pixels of an image that are read together for a group of cells; one that is spread farther is read cell by cell."""

LENGTHS = np.zeros(50)
"""Length of line that a pixel of the border stands for, by the sum of its neighbours on the border: 10 for each that
shares a corner, 2 for each that shares an edge, and 1 (Benkrid and Crookes, "Design and FPGA implementation of a
perimeter estimator", 2000)."""
LENGTHS[[5, 7, 15, 17, 25, 27]] = 1
LENGTHS[[21, 33]] = np.sqrt(2)
LENGTHS[[13, 23]] = (1 + np.sqrt(2)) / 2


@dataclass(frozen=True)
class Shapes:
    """Measures of N cells, each (N,).

    Attributes:
        areas: int64, pixels.
        centroids: (N, 2) float64, (x, y); a pixel's centre has whole numbers.
        perimeters: the length of the line through the centres of the border's pixels.
        eccentricities: the eccentricity of the ellipse with the same second moments, 0 for a circle.
        solidities: share of the convex hull that the cell fills.
        means: (N, C) float64, of the image in the cell; None without an image.
    """

    areas: Ints
    centroids: Floats
    perimeters: Floats
    eccentricities: Floats
    solidities: Floats
    means: Floats | None


def shapes(cells: CellInstances, image: NDArray[np.uint8] | ImageRegions | None = None) -> Shapes:
    """Measures cells in a time that follows their pixels, whatever their number.

    Args:
        cells: each with a pixel; they may overlap. One of several pieces is measured as one.
        image: (H, W, C), or an image that is read by windows, one of each cell's box; for the means.
    """
    parts = [_measure(part, image) for part in _parts(cells)]
    if not parts:
        none = np.zeros(0)
        channels = image.shape[2] if isinstance(image, np.ndarray) else image.channels if image else 0
        means = None if image is None else np.zeros((0, channels))
        return Shapes(np.zeros(0, np.int64), np.zeros((0, 2)), none, none, none, means)
    return Shapes(
        np.concatenate([part.areas for part in parts]),
        np.concatenate([part.centroids for part in parts]),
        np.concatenate([part.perimeters for part in parts]),
        np.concatenate([part.eccentricities for part in parts]),
        np.concatenate([part.solidities for part in parts]),
        None if image is None else np.concatenate([part.means for part in parts if part.means is not None]),
    )


def _parts(cells: CellInstances) -> Iterator[CellInstances]:
    """The cells in groups of not much more than :data:`AT_ONCE` pixels."""
    pixels = np.cumsum([mask.size for mask in cells.masks], dtype=np.int64)
    bounds = np.flatnonzero(np.diff(pixels // AT_ONCE, prepend=-1)).tolist()
    for first, last in zip(bounds, [*bounds[1:], len(cells)]):
        yield cells[first:last]


def _measure(cells: CellInstances, image: NDArray[np.uint8] | ImageRegions | None) -> Shapes:
    """Those of a group: all masks, each with a frame of one pixel, lie one after the other in one array."""
    count = len(cells)
    framed = np.array([mask.shape for mask in cells.masks], np.int64) + 2
    ends = np.cumsum(framed.prod(axis=1))
    starts = ends - framed.prod(axis=1)
    flat = np.zeros(int(ends[-1]), bool)
    for mask, start, end, shape in zip(cells.masks, starts.tolist(), ends.tolist(), framed.tolist()):
        flat[start:end].reshape(shape)[1:-1, 1:-1] = mask
    places = np.flatnonzero(flat)
    owner = np.repeat(np.arange(count), np.add.reduceat(flat, starts, dtype=np.int64))
    rows, columns = np.divmod(places - starts[owner], framed[owner, 1])
    x, y = columns - 1 + cells.origins[owner, 0], rows - 1 + cells.origins[owner, 1]

    areas = np.bincount(owner, minlength=count)
    centroids = np.stack([np.bincount(owner, values, count) / areas for values in (x, y)], axis=1)
    means = None
    if image is not None:
        values = image[y, x] if isinstance(image, np.ndarray) else _values(cells, image, x, y)
        sums = [np.bincount(owner, channel, count) for channel in values.T]
        means = np.stack(sums, axis=1) / areas[:, None]
    return Shapes(
        areas,
        centroids,
        _perimeters(flat, places, owner, framed[owner, 1], count),
        _eccentricities(x - centroids[owner, 0], y - centroids[owner, 1], owner, areas),
        areas / _hull_areas(x, y, owner, count),
        means,
    )


def _values(cells: CellInstances, image: ImageRegions, x: Ints, y: Ints) -> NDArray[np.uint8]:
    """(P, C), those of the pixels of all cells, (P,) x and y; cells that lie near each other are read together."""
    boxes = cells.mask_boxes
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    if (right - left) * (bottom - top) <= LARGEST_WINDOW:
        return image.read((left, top, right, bottom))[y - top, x - left]
    return np.concatenate([image.read(tuple(box))[mask] for mask, box in zip(cells.masks, boxes.tolist())])


def _perimeters(flat: Bools, places: Ints, owner: Ints, stride: Ints, count: int) -> Floats:
    """``skimage.measure.perimeter`` with a neighbourhood of 4; ``stride`` is a row's length in each pixel's mask."""
    inner = flat[places - 1] & flat[places + 1] & flat[places - stride] & flat[places + stride]
    border = flat.copy()
    border[places[inner]] = False
    places, owner, stride = places[~inner], owner[~inner], stride[~inner]
    edges = sum(border[places + step].astype(np.int64) for step in (-1, 1, -stride, stride))
    corners = sum(border[places + step].astype(np.int64) for step in (-1 - stride, 1 - stride, stride - 1, stride + 1))
    return np.bincount(owner, LENGTHS[1 + 2 * edges + 10 * corners], count).astype(np.float64)


def _eccentricities(dx: Floats, dy: Floats, owner: Ints, areas: Ints) -> Floats:
    """From the second moments around the centroid; 0 for a single pixel."""
    xx, yy, xy = (np.bincount(owner, values, len(areas)) / areas for values in (dx * dx, dy * dy, dx * dy))
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long, short = middle + spread, np.maximum(middle - spread, 0)
    return np.sqrt(1 - np.divide(short, long, out=np.ones_like(long), where=long > 0))


def _hull_areas(x: Ints, y: Ints, owner: Ints, count: int) -> Ints:
    """Pixels whose centre lies in the hull of the middles of the cell's pixels' edges, as in ``convex_hull_image``."""
    first = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(y, prepend=-1) != 0))
    last = np.append(first[1:], len(x)) - 1
    row, cell = y[first], owner[first]
    corners, cells = [], []
    for side, ends in ((-1, x[first]), (1, x[last])):  # of each row only the two ends can be corners of the hull
        kept = _stands_out(side * ends, row, cell)
        middle = np.stack([ends[kept], row[kept]], axis=1)[:, None]
        corners.append((middle + np.array([(0.5 * side, 0), (0, -0.5), (0, 0.5)])).reshape(-1, 2))
        cells.append(np.repeat(cell[kept], 3))
    of_cell = np.concatenate(cells)
    order = np.argsort(of_cell, kind="stable")
    hulls = shapely.convex_hull(shapely.linestrings(np.concatenate(corners)[order], indices=of_cell[order]))
    ring, hull = shapely.get_coordinates(hulls, return_index=True)
    same = hull[1:] == hull[:-1]
    return _lattice_points(ring[:-1][same], ring[1:][same], hull[1:][same], count)


def _stands_out(ends: Ints, row: Ints, cell: Ints) -> Bools:
    """Which ends of rows, larger is farther out, are not on or behind the line between those above and below."""
    out = np.ones(len(ends), bool)
    adjoin = (row[2:] - row[:-2] == 2) & (cell[2:] == cell[:-2])
    out[1:-1] = ~adjoin | (2 * ends[1:-1] > ends[2:] + ends[:-2])
    return out


def _lattice_points(start: Floats, end: Floats, polygon: Ints, count: int) -> Ints:
    """(count,) points of whole numbers in convex polygons, those on an edge among them.

    Args:
        start: (E, 2) float64, where the edges of all polygons begin; corners have whole or half numbers.
        end: where they end.
        polygon: (E,) the polygon of each.
        count: the number of polygons.
    """
    low, high = np.ceil(np.minimum(start[:, 0], end[:, 0])), np.floor(np.maximum(start[:, 0], end[:, 0]))
    low, high = low.astype(np.int64), high.astype(np.int64)
    lengths = np.where(start[:, 0] == end[:, 0], 0, np.maximum(high - low + 1, 0))
    edge = np.repeat(np.arange(len(start)), lengths)
    x = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + low[edge]
    slope = (end[edge, 1] - start[edge, 1]) / (end[edge, 0] - start[edge, 0])
    y = start[edge, 1] + (x - start[edge, 0]) * slope
    order = np.lexsort((x, polygon[edge]))
    x, y, owner = x[order], y[order], polygon[edge][order]
    column = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(x, prepend=-1) != 0))
    # A line that meets a whole number misses it by less than this in floats, and any other one by far more.
    near = 1e-6
    top = np.ceil(np.minimum.reduceat(y, column) - near)
    bottom = np.floor(np.maximum.reduceat(y, column) + near)
    return np.bincount(owner[column], bottom - top + 1, count).astype(np.int64)
