"""A stand-in model that returns what it can see of the truth in each tile, and what its answers are compared by."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import ndimage

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.inference.stitch import stitch

TOLERANCE = 4


def instances(size, found):
    """CellInstances from (x, y, mask, class, score) rows."""
    boxes = [(x, y, x + mask.shape[1], y + mask.shape[0]) for x, y, mask, _, _ in found]
    return CellInstances(
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([row[4] for row in found], np.float32),
        np.array([row[3] for row in found], np.int64),
        [row[2] for row in found],
        np.array([row[:2] for row in found], np.int64).reshape(-1, 2),
    )


def see(labels, window, classes=None):
    """The cells of a label map that a window shows, each cut to the window, with a score that differs by cell."""
    x0, y0, x1, y1 = window
    part = labels[y0:y1, x0:x1]
    found = []
    for value, box in enumerate(ndimage.find_objects(part), 1):
        if box is not None:
            kind = 0 if classes is None else int(classes[value])
            found.append((x0 + box[1].start, y0 + box[0].start, part[box] == value, kind, 1 / (1 + value)))
    return instances(labels.shape, found)


def jittered(labels, window, random):
    """As ``see``, but every side of each box is off by up to a pixel, by another draw in each tile; for rectangles."""
    height, width = labels.shape
    x0, y0, x1, y1 = window
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        left, top, right, bottom = random.integers(-1, 2, 4)
        left, right = max(box[1].start + left, x0, 0), min(box[1].stop + right, x1, width)
        top, bottom = max(box[0].start + top, y0, 0), min(box[0].stop + bottom, y1, height)
        if left < right and top < bottom and (labels[y0:y1, x0:x1] == value).any():
            found.append((left, top, np.ones((bottom - top, right - left), bool), 0, random.random()))
    return instances(labels.shape, found)


def grid(labels, core, halo):
    """Tiles with cores of ``core`` pixels and a halo around each, unless one tile holds the image."""
    tile_size = core + 2 * halo
    tiles = TileGrid(*labels.shape, tile_size, 2 * halo / tile_size)
    assert len(tiles) == 1 or tiles.halo == halo
    return tiles


def cells_of(cells):
    """The cells as a multiset of (place, shape, pixels, class, score)."""
    return Counter(
        (*origin, *mask.shape, mask.tobytes(), kind, score)
        for origin, mask, kind, score in zip(
            cells.origins.tolist(), cells.masks, cells.classes.tolist(), cells.scores.tolist()
        )
    )


def whole(labels, classes=None):
    return see(labels, (0, 0, labels.shape[1], labels.shape[0]), classes)


def largest_side(cells):
    return max((max(mask.shape) for mask in cells.masks), default=0)


def same(first, second):
    """Whether two sets are equal field by field and in order."""
    return (
        all(
            np.array_equal(getattr(first, name), getattr(second, name))
            for name in ("image_size", "boxes", "scores", "classes", "origins")
        )
        and len(first) == len(second)
        and all(np.array_equal(one, other) for one, other in zip(first.masks, second.masks))
    )


def rectangles(size, *boxes):
    labels = np.zeros(size, np.int32)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    return labels


def stitched(labels, core, halo, **options):
    return stitch([(tile, see(labels, tile.window)) for tile in grid(labels, core, halo)], labels.shape, **options)
