"""A mask -> polygons along the edges of its pixels, from which the very same mask can be drawn again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Ring = NDArray[np.int64]
"""(n, 2), (x, y) of the corners of a closed line; the first is not repeated at the end."""

Polygon = list[Ring]
"""The outer ring, then the rings of the holes."""


def trace(mask: NDArray[np.bool_], origin: tuple[int, int] | NDArray[np.int64] = (0, 0)) -> list[Polygon]:
    """The outlines of a mask, exactly: a pixel belongs to it if its centre lies inside.

    Coordinates are as in QuPath, ImageJ and the GeoJSON that both read: pixel (x, y) covers x .. x + 1 and
    y .. y + 1. Pixels that share a corner only belong to different polygons, and no ring meets itself, so each polygon
    and all of them together are valid in the sense of OGC's Simple Features (ISO 19125-1). Outer rings have the mask
    on the right on the screen, where y points down; that is counterclockwise in RFC 7946's sense. Holes go the other
    way round. The cost follows the pixels of the crop, and the corners of the outline.

    Args:
        mask: (h, w) bool, cropped to its cell.
        origin: (x, y) of the mask's first pixel in the image.

    Returns:
        At least one polygon.

    Raises:
        ValueError: the mask has no pixel.
    """
    loops = _loops(_edges(mask))
    if not loops:
        raise ValueError("a mask without a pixel has no outline")
    stride = mask.shape[1] + 1
    # A loop starts at its topmost corner, the leftmost of these. From there an outer ring goes right, a hole down.
    outer = [loop for loop in loops if loop[0] // stride == loop[1] // stride]
    holes = [loop for loop in loops if loop[0] // stride != loop[1] // stride]
    polygons = [[_ring(loop, stride, origin)] for loop in outer]
    if holes:
        # The mask has the pixel below and to the right of an outer ring's first corner, and the pixel above and to the
        # right of a hole's first corner. Pixels that share an edge are of one polygon.
        labels = ndimage.label(mask)[0] if len(outer) > 1 else np.zeros(mask.shape, np.int32)
        owner = {labels[loop[0] // stride, loop[0] % stride]: place for place, loop in enumerate(outer)}
        for loop in holes:
            place = owner[labels[loop[0] // stride - 1, loop[0] % stride]]
            polygons[place].append(_ring(loop, stride, origin))
    return polygons


def in_one_line(polygon: Polygon) -> Ring:
    """A polygon as one closed line, for formats without holes: a slit leads from the outer ring to each hole and back.

    Whoever fills the line by the even-odd rule, as pycocotools does, gets the polygon's very pixels: the two sides of a
    slit cancel each other. A slit joins the two corners that are nearest to each other.

    >>> outer, hole = np.array([[0, 0], [9, 0], [9, 9], [0, 9]]), np.array([[1, 1], [1, 2], [2, 2], [2, 1]])
    >>> in_one_line([outer, hole]).tolist()
    [[0, 0], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [0, 0], [9, 0], [9, 9], [0, 9]]
    """
    outer, *holes = polygon
    if not holes:
        return outer
    corners = KDTree(outer)
    ways: dict[int, list[Ring]] = {}
    for hole in holes:
        distances, nearest = corners.query(hole)
        end = int(distances.argmin())
        begin = int(nearest[end])
        around = np.roll(hole, -end, axis=0)
        ways.setdefault(begin, []).append(np.concatenate([around, around[:1], outer[begin : begin + 1]]))
    pieces: list[Ring] = []
    for place in range(len(outer)):
        pieces += [outer[place : place + 1], *ways.get(place, [])]
    return np.concatenate(pieces)


def _edges(mask: NDArray[np.bool_]) -> dict[int, int]:
    """The straight pieces of the outline: 4 * corner + direction -> corner where it ends.

    Corners are counted row by row, (h + 1) x (w + 1) of them. Directions are 0 right, 1 down, 2 left and 3 up on the
    screen, with the mask on the right hand. Each piece goes from one corner to the next; where pixels share a corner
    only, two pieces start.
    """
    height, width = mask.shape
    framed = np.zeros((height + 2, width + 2), bool)
    framed[1:-1, 1:-1] = mask
    above, below, left, right = framed[:-1], framed[1:], framed[:, :-1].T, framed[:, 1:].T
    edges: dict[int, int] = {}
    for direction, sides in enumerate((below > above, left > right, above > below, right > left)):
        # Along a line, pieces begin and end in turn: the first beginning belongs to the first end, and so on.
        first = np.flatnonzero(sides[:, 1:] > sides[:, :-1])
        last = np.flatnonzero(sides[:, 1:] < sides[:, :-1])
        if direction % 2:  # counted column by column
            first = first % (height + 1) * (width + 1) + first // (height + 1)
            last = last % (height + 1) * (width + 1) + last // (height + 1)
        if direction >= 2:
            first, last = last, first
        edges.update(zip((4 * first + direction).tolist(), last.tolist()))
    return edges


def _loops(edges: dict[int, int]) -> list[list[int]]:
    """Joins pieces, see :func:`_edges`, to loops of corners that meet no corner twice; ``edges`` is used up.

    At a corner that two pixels share the way goes on around the same pixel, to the right, so that each loop is of one
    part of the mask, in which pixels share edges. Where such a part touches itself, its loop is cut in two there.
    """
    loops: list[list[int]] = []
    for first in list(edges):
        key = first
        path: list[int] = []
        places: dict[int, int] = {}
        while key in edges:
            corner, direction = key >> 2, key & 3
            places[corner] = len(path)
            path.append(corner)
            corner = edges.pop(key)
            if corner in places:
                loop = path[places[corner] :]
                del path[places[corner] :]
                for passed in loop:
                    del places[passed]
                start = loop.index(min(loop))
                loops.append(loop[start:] + loop[:start])
            key = 4 * corner + (direction + 1) % 4
            if key not in edges:
                key = 4 * corner + (direction + 3) % 4
    return loops


def _ring(loop: list[int], stride: int, origin: tuple[int, int] | NDArray[np.int64]) -> Ring:
    y, x = np.divmod(np.array(loop, np.int64), stride)
    return np.stack([x + origin[0], y + origin[1]], axis=1)
