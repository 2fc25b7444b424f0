"""Joins the instances of overlapping tiles, so that each cell has one instance.

The method builds on StarDist's responsibility rule (``stardist/big.py``; Weigert et al. 2018): every tile is
responsible for its core, and an object belongs to the tile whose core contains its reference point. This needs tiles
that agree to the pixel, which the tiles of a two-stage detector do not. So here a tile is also responsible for
``tolerance`` pixels around its core, and cells that two tiles then report are matched by mask. A cell that no
responsible tile sees whole is put together from pieces.

Let D be the largest box side of a predicted cell, and let cells be connected. A halo above D / 2 + tolerance + 1 gives
each cell once. The tile that owns the cell's point sees it whole. A piece that a tile's edge cuts has its point so near
to this edge that the tile is not responsible for it; the tile that owns this point sees the whole piece and decides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.overlaps import crop, neighbours, shared_pixels, suppress_pairs
from cellseg_d2.cells.tiling import Tile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StitchReport:
    """Counts of what happened to the instances of all tiles; ``owned + large`` is the number of cells in the result.

    Attributes:
        owned: cells that a responsible tile saw whole.
        rejected: instances left to another tile: cut by a tile's edge, or with a reference point in another core.
        deduplicated: whole instances dropped because two responsible tiles reported the same cell.
        large: cells that no responsible tile saw whole, put together from pieces.
    """

    owned: int
    rejected: int
    deduplicated: int
    large: int


@dataclass(frozen=True)
class _Candidates:
    """N instances, each with its tile; boxes, windows and cores are (x0, y0, x1, y1), half open.

    Boxes are tight around the masks, which are cropped to them; the point of an instance is the centre of its box.
    """

    cells: CellInstances
    tile: Ints
    windows: Ints
    cores: Ints

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: NDArray[Any]) -> _Candidates:
        return _Candidates(self.cells[index], self.tile[index], self.windows[index], self.cores[index])

    @cached_property
    def boxes(self) -> Ints:
        return self.cells.mask_boxes

    @cached_property
    def areas(self) -> Ints:
        return self.cells.areas

    @cached_property
    def points(self) -> Floats:
        return _centres(self.boxes)


def stitch(
    pieces: Iterable[tuple[Tile, CellInstances]], image_size: tuple[int, int], *, tolerance: int = 4
) -> tuple[CellInstances, StitchReport]:
    """Joins the instances of all tiles of an image into one set with one instance per cell.

    A cell's reference point is the centre of its mask's tight box. Instances are compared by mask, whatever their
    class, but never with instances of the same tile. The result does not depend on the order of ``pieces``.

    Args:
        pieces: each tile with its instances, in pixels of the full image and inside the tile's window. Tiles without an
            instance must be included, because it matters that they saw nothing.
        image_size: (height, width) of the full image in pixels.
        tolerance: the most pixels by which two tiles may disagree about a reference point, in x or y.

    Returns:
        The cells, with masks cropped tight, sorted by reference point (y, then x); and counts of what happened to the
        instances. A cell that is put together from pieces has the union of their masks and boxes, and the class and
        score of the largest one. One warning per image reports such cells, with the halo that would have shown each of
        them whole.

    Raises:
        ValueError: ``tolerance`` is negative, or an instance belongs to an image of another size.

    Limits: a cell larger than the halo allows may become several cells if its tiles give it different classes, if their
    masks agree by less than half in the area that they share, or if it has parts that do not touch. Without any overlap
    of the tiles, two cells that touch across a seam cannot be distinguished from one cell that the seam cuts.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0 pixels, not {tolerance}")
    tiles, found = _collect(pieces, image_size)
    whole = ~_touches_interior_edge(found.boxes, found.windows, image_size)
    owned = whole & _within(found.points, found.cores, tolerance)
    kept = owned.copy()
    to_border = np.abs(_side_distances(found.points, found.cores, image_size)).min(axis=1)
    band = np.flatnonzero(owned & (to_border <= 2 * tolerance))  # only these may be in two tiles
    kept[band[_duplicates(found[band], image_size, tolerance)]] = False

    pool = found[~owned & ~_decided_by_owner(found.boxes, tiles, image_size)]
    large, used = _large_cells(pool, found[kept], tiles, image_size, tolerance)
    if len(large):
        side = int((large.mask_boxes[:, 2:] - large.mask_boxes[:, :2]).max())
        logger.warning(
            "cells too large for the overlap of the tiles, put together from pieces: %d; a halo of %d px around the "
            "tiles' cores would have shown each of them whole to one tile",
            len(large),
            side // 2 + tolerance + 2,
        )
    report = StitchReport(
        owned=int(kept.sum()),
        rejected=int((~owned).sum()) - used,
        deduplicated=int(owned.sum() - kept.sum()),
        large=len(large),
    )
    return _sorted(CellInstances.concatenate([found.cells[kept], large])), report


def _collect(
    pieces: Iterable[tuple[Tile, CellInstances]], image_size: tuple[int, int]
) -> tuple[list[Tile], _Candidates]:
    """All tiles from top to bottom and left to right, and all instances in the order of their tiles."""
    given = [(tile, cells.trimmed()) for tile, cells in pieces]
    tiles = sorted({tile for tile, _ in given}, key=lambda tile: (tile.core[1], tile.core[0], tile.core, tile.window))
    rank = {tile: number for number, tile in enumerate(tiles)}
    cells = CellInstances.concatenate([CellInstances.empty(image_size), *(cells for _, cells in given)])
    tile_of = np.repeat([rank[tile] for tile, _ in given], [len(cells) for _, cells in given]).astype(np.int64)
    windows, cores = _as_boxes([tile.window for tile in tiles]), _as_boxes([tile.core for tile in tiles])
    order = np.lexsort((cells.scores, cells.classes, *cells.mask_boxes.T, tile_of))
    tile_of = tile_of[order]
    return tiles, _Candidates(cells[order], tile_of, windows[tile_of], cores[tile_of])


def _centres(boxes: Ints) -> Floats:
    """(N, 2), the centre (x, y) of each box."""
    centres: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres


def _as_boxes(boxes: list[tuple[int, int, int, int]]) -> Ints:
    return np.array(boxes, np.int64).reshape(-1, 4)


def _sorted(cells: CellInstances) -> CellInstances:
    """The same cells in an order that depends only on the cells."""
    x0, y0, x1, y1 = cells.mask_boxes.T
    return cells[np.lexsort((-cells.scores, cells.classes, y1, x1, y0, x0, x0 + x1, y0 + y1))]


def _interior(boxes: Ints, image_size: tuple[int, int]) -> Bools:
    """(N, 4) bool, which sides of each box do not lie on the image's border."""
    height, width = image_size
    return np.concatenate([boxes[:, :2] > 0, boxes[:, 2:] < (width, height)], axis=1)


def _touches_interior_edge(boxes: Ints, windows: Ints, image_size: tuple[int, int]) -> Bools:
    """(N,) bool, whether each box reaches a side of its window that lies inside the image."""
    reaches = np.concatenate([boxes[:, :2] <= windows[:, :2], boxes[:, 2:] >= windows[:, 2:]], axis=1)
    touches: Bools = (reaches & _interior(windows, image_size)).any(axis=1)
    return touches


def _within(points: Floats, boxes: Ints, margin: int) -> Bools:
    within: Bools = ((points >= boxes[:, :2] - margin) & (points < boxes[:, 2:] + margin)).all(axis=1)
    return within


def _side_distances(points: Floats, boxes: Ints, image_size: tuple[int, int]) -> Floats:
    """(N, 4), the distance of each point from each side of its box; infinite for sides on the image's border."""
    distances = np.concatenate([points - boxes[:, :2], boxes[:, 2:] - points], axis=1)
    return np.where(_interior(boxes, image_size), distances, np.inf)


def _same_cell(first: _Candidates, second: _Candidates, a: Ints, b: Ints, shared: Ints, tolerance: int) -> Bools:
    """(M,) bool, whether ``first[a[m]]`` and ``second[b[m]]``, which share ``shared[m]`` pixels, show the same cell."""
    areas, others = first.areas[a], second.areas[b]
    close = np.abs(first.points[a] - second.points[b]).max(axis=1) <= tolerance
    # A shift by one pixel can take the IoU of a small cell below one half; then agreeing points are enough.
    same: Bools = (2 * shared > areas + others - shared) | (close & (2 * shared > np.minimum(areas, others)))
    return same


def _duplicates(found: _Candidates, image_size: tuple[int, int], tolerance: int) -> Bools:
    """(N,) bool, which instances another tile shows too, deeper inside its window or with a higher score."""
    depth = _side_distances(found.points, found.windows, image_size).min(axis=1)
    a, b = neighbours(found.boxes, found.boxes)
    comparable = found.tile[a] < found.tile[b]
    a, b = a[comparable], b[comparable]
    same = _same_cell(found, found, a, b, shared_pixels(found.cells, found.cells, a, b), tolerance)
    stays = np.ones(len(found), bool)
    suppress_pairs(stays, np.argsort(np.lexsort((found.tile, -found.cells.scores, -depth))), a[same], b[same])
    return ~stays


def _decided_by_owner(boxes: Ints, tiles: list[Tile], image_size: tuple[int, int]) -> Bools:
    """(N,) bool, whether the tile whose core contains a box's centre sees the box whole.

    Then the instances of other tiles there add nothing. The owner saw at least as much of them: it has the cell, or all
    that this piece shows of a larger cell, or it found no cell there.
    """
    cores, windows = _as_boxes([tile.core for tile in tiles]), _as_boxes([tile.window for tile in tiles])
    points = _centres(boxes)
    box, tile = neighbours(np.concatenate([points, points], axis=1), cores)
    owns = _within(points[box], cores[tile], 0)
    box, tile = box[owns], tile[owns]
    decided = np.zeros(len(boxes), bool)
    decided[box] = ~_touches_interior_edge(boxes[box], windows[tile], image_size)
    return decided


def _large_cells(
    pool: _Candidates, kept: _Candidates, tiles: list[Tile], image_size: tuple[int, int], tolerance: int
) -> tuple[CellInstances, int]:
    """The cells that instances without an owner show, and how many instances were used for them."""
    a, b = neighbours(pool.boxes, kept.boxes)
    shared = shared_pixels(pool.cells, kept.cells, a, b)
    belongs = (2 * shared > pool.areas[a]) | _same_cell(pool, kept, a, b, shared, tolerance)
    pool = pool[np.setdiff1d(np.arange(len(pool)), a[belongs])]

    if not len(pool):
        return pool.cells, 0
    a, b = _joints(pool)
    count, group_of = connected_components(coo_matrix((np.ones(len(a)), (a, b)), (len(pool), len(pool))), False)
    sizes = np.bincount(group_of, minlength=count)
    groups = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
    cells = CellInstances.concatenate([_union(pool, group) for group in groups])
    boxes, areas = cells.mask_boxes, cells.areas
    stays = ~_decided_by_owner(boxes, tiles, image_size)
    a, b = neighbours(boxes, kept.boxes)
    stays[a[2 * shared_pixels(cells, kept.cells, a, b) > np.minimum(areas[a], kept.areas[b])]] = False
    # If tiles give a large cell different classes, the groups overlap, and the larger group stays.
    a, b = neighbours(boxes, boxes)
    a, b = a[a < b], b[a < b]
    over = 2 * shared_pixels(cells, cells, a, b) > np.minimum(areas[a], areas[b])
    suppress_pairs(stays, np.argsort(np.lexsort((-cells.scores, -areas))), a[over], b[over])
    return cells[stays], int(sizes[stays].sum())


def _joints(pool: _Candidates) -> tuple[Ints, Ints]:
    """Pairs of instances of one class from different tiles that are parts of one cell."""
    a, b = neighbours(pool.boxes, pool.boxes)
    classes = pool.cells.classes
    possible = (pool.tile[a] < pool.tile[b]) & (classes[a] == classes[b])
    a, b = a[possible], b[possible]
    overlap = np.minimum(pool.windows[a], pool.windows[b])[:, 2:] - np.maximum(pool.windows[a], pool.windows[b])[:, :2]
    shared = shared_pixels(pool.cells, pool.cells, a, b)
    joined = np.zeros(len(a), bool)
    for pair in np.flatnonzero((overlap > 0).all(axis=1) & (shared > 0)).tolist():
        one, other = _visible(pool, a[pair], b[pair]), _visible(pool, b[pair], a[pair])
        joined[pair] = 2 * shared[pair] >= min(one, other)
    # Windows without overlap share no area, so the contact across the seam decides.
    for pair in np.flatnonzero((overlap.min(axis=1) == 0) & (overlap.max(axis=1) > 0)).tolist():
        joined[pair] = _face(pool, a[pair], b[pair], axis=int(overlap[pair].argmin()))
    return a[joined], b[joined]


def _visible(pool: _Candidates, number: int, viewer: int) -> int:
    """The number of pixels of an instance in the window of another instance's tile."""
    window = tuple(pool.windows[viewer].tolist())
    return int(np.count_nonzero(crop(pool.cells.masks[number], pool.boxes[number, :2].tolist(), window)))


def _face(pool: _Candidates, a: int, b: int, axis: int) -> bool:
    """Whether two instances touch across a seam (axis 0: left and right of it) over half of the smaller profile."""
    before, after = (a, b) if pool.windows[a, axis] < pool.windows[b, axis] else (b, a)
    # With a halo, windows of tiles that are not neighbours may meet too; only seams between cores matter here.
    seam, along = pool.cores[after, axis], 1 - axis
    if pool.boxes[before, axis + 2] != seam or pool.boxes[after, axis] != seam:
        return False
    one, other = pool.cells.masks[before], pool.cells.masks[after]
    one, other = (one[:, -1], other[:, 0]) if axis == 0 else (one[-1], other[0])
    shift = int(pool.boxes[after, along] - pool.boxes[before, along])
    facing, faced = one[max(shift, 0) :], other[max(-shift, 0) :]
    length = min(len(facing), len(faced))
    contact = np.count_nonzero(facing[:length] & faced[:length])
    return bool(contact > 0 and 2 * contact >= min(np.count_nonzero(one), np.count_nonzero(other)))


def _union(pool: _Candidates, group: Ints) -> CellInstances:
    """The instances of a group as one cell, with class and score of the largest piece."""
    origin, end = pool.boxes[group, :2].min(axis=0), pool.boxes[group, 2:].max(axis=0)
    mask = np.zeros((end - origin)[::-1], bool)
    for number in group.tolist():
        x0, y0, x1, y1 = (pool.boxes[number] - np.tile(origin, 2)).tolist()
        mask[y0:y1, x0:x1] |= pool.cells.masks[number]
    best = group[np.lexsort((-pool.cells.scores[group], -pool.areas[group]))[:1]]
    boxes = pool.cells.boxes[group]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None]
    scores, classes = pool.cells.scores[best], pool.cells.classes[best]
    return CellInstances(pool.cells.image_size, box, scores, classes, [mask], origin[None])
