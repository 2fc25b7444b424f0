"""The part of an image that is predicted: annotations that QuPath exports, or a mask.

Tiles that the region does not touch are not predicted. Of the cells in the others those are kept whose mask lies in the
region by half at least. A region is read by windows as images are; outlines need no memory that grows with the image.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from cellseg_d2.annotations.geojson import GeoObject, read_objects
from cellseg_d2.annotations.qupath import IGNORE, SUFFIX
from cellseg_d2.annotations.shapes import Ring, inside_rings
from cellseg_d2.cells.arrays import Bools, Floats
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import Window, tile_windows
from cellseg_d2.errors import CellSegError, size_text, turned_text
from cellseg_d2.images.label_files import LABEL_SUFFIXES, read_label_file
from cellseg_d2.images.listing import InputImage

OUTLINE_SUFFIXES = (SUFFIX, ".json")

BLOCK_SIDE = 1024
"""Cells are compared with the region, and its pixels are counted, in blocks of this side."""


class Region(ABC):
    """The part of an image that is predicted, read by windows.

    Attributes:
        size: (height, width) of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    @abstractmethod
    def read(self, window: Window) -> Bools:
        """(h, w) bool, which pixels of a window inside the image are in the region."""

    def touches(self, window: Window) -> bool:
        """Whether a pixel of a window is in the region."""
        return bool(self.read(window).any())

    @cached_property
    def share(self) -> float:
        """The share of the image's pixels that are in the region."""
        height, width = self.size
        blocks = tile_windows(height, width, BLOCK_SIDE)
        return sum(int(np.count_nonzero(self.read(block))) for block in blocks) / (height * width)

    def keep(self, cells: CellInstances) -> CellInstances:
        """The cells of the image of whose pixels half at least are in the region, in their order."""
        if not len(cells):
            return cells
        boxes, kept = cells.mask_boxes, np.zeros(len(cells), bool)
        blocks = boxes[:, :2] // BLOCK_SIDE
        order = np.lexsort(blocks.T)
        ends = np.flatnonzero(np.diff(blocks[order], axis=0).any(axis=1)) + 1
        for members in np.split(order, ends):
            left, top = boxes[members, :2].min(axis=0).tolist()
            right, bottom = boxes[members, 2:].max(axis=0).tolist()
            inside = self.read((left, top, right, bottom))
            for number in members.tolist():
                x0, y0, x1, y1 = boxes[number].tolist()
                mask = cells.masks[number]
                shared = np.count_nonzero(mask & inside[y0 - top : y1 - top, x0 - left : x1 - left])
                kept[number] = 2 * shared >= np.count_nonzero(mask)
        return cells[kept]


class MaskRegion(Region):
    """A region from a mask.

    Args:
        mask: (H, W) bool, of the image's size.
    """

    def __init__(self, mask: Bools) -> None:
        super().__init__((mask.shape[0], mask.shape[1]))
        self._mask = mask

    def read(self, window: Window) -> Bools:
        """See :meth:`Region.read`."""
        x0, y0, x1, y1 = window
        return self._mask[y0:y1, x0:x1]


@dataclass(frozen=True, eq=False)
class Area:
    """What the outlines of one object enclose, by the rule of :func:`cellseg_d2.annotations.shapes.inside_rings`.

    Attributes:
        rings: the outlines, those of holes too, of three corners at least; in pixels of the image.
    """

    rings: Sequence[Ring]

    @cached_property
    def edges(self) -> tuple[Floats, Floats]:
        """(2, E) each, x and y of the edges' first ends, and of their second ones."""
        second = [np.roll(ring, -1, axis=0) for ring in self.rings]
        return np.concatenate(self.rings).T.copy(), np.concatenate(second).T.copy()

    @cached_property
    def edge_boxes(self) -> Floats:
        """(4, E), x0, y0, x1 and y1 of the box of each edge."""
        return np.concatenate([np.minimum(*self.edges), np.maximum(*self.edges)])

    @cached_property
    def box(self) -> Floats:
        """(4,), the box of all of it."""
        return np.concatenate([self.edge_boxes[:2].min(axis=1), self.edge_boxes[2:].max(axis=1)])

    def paint(self, mask: Bools, window: Window) -> None:
        """Sets its pixels in the mask of a window, (h, w)."""
        if not _meets(self.box, window):
            return
        if _meets(self.edge_boxes, window).any():
            mask[inside_rings([ring - window[:2] for ring in self.rings], (mask.shape[0], mask.shape[1]))] = True
        elif self._holds(window[0], window[1]):  # without an edge, all of the window is as its first pixel
            mask[:] = True

    def _holds(self, x: int, y: int) -> bool:
        """Whether a point that is on no edge is inside: an odd number of edges passes on its left."""
        (x0, y0), (x1, y1) = self.edges
        passes = np.flatnonzero((y0 <= y) != (y1 <= y))
        start, end = y0[passes], y1[passes]
        crossing = x0[passes] + (y - start) / (end - start) * (x1[passes] - x0[passes])
        return bool(np.count_nonzero(crossing < x) % 2)


class OutlineRegion(Region):
    """A region from outlines: all pixels of some areas but those of others. No mask of the image is made.

    Args:
        size: (height, width) of the image.
        areas: what is in the region.
        holes: what is not, even where it is in one of the areas.
    """

    def __init__(self, size: tuple[int, int], areas: Sequence[Area], holes: Sequence[Area] = ()) -> None:
        super().__init__(size)
        self._areas, self._holes = areas, holes

    def read(self, window: Window) -> Bools:
        """See :meth:`Region.read`."""
        inside = _covered(self._areas, window)
        return inside & ~_covered(self._holes, window) if self._holes else inside


def _covered(areas: Sequence[Area], window: Window) -> Bools:
    x0, y0, x1, y1 = window
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    for area in areas:
        area.paint(mask, window)
    return mask


def _meets(boxes: Floats, window: Window) -> Bools:
    """Which boxes, (4,) or (4, N), reach into a window or touch it."""
    x0, y0, x1, y1 = window
    meets: Bools = (boxes[0] <= x1) & (boxes[1] <= y1) & (boxes[2] >= x0) & (boxes[3] >= y0)
    return meets


def read_region(path: Path, size: tuple[int, int]) -> Region:
    """The region of an image.

    Args:
        path: GeoJSON, or a mask of the image's size in TIFF or PNG, whose values above 0 are the region. Of GeoJSON all
            annotations with an area are, but for what those of QuPath's class ``Ignore*`` cover; coordinates are pixels
            of the full image.
        size: (height, width) of the image.

    Raises:
        CellSegError: the file cannot be read, holds no annotation with an area, lies outside the image, or is of
            another size.
    """
    if path.suffix.lower() in OUTLINE_SUFFIXES:
        return _read_outlines(path, size)
    mask = read_label_file(path) > 0
    if mask.shape != size:
        raise CellSegError(
            f"{path}: is {size_text(mask.shape)}, its image {size_text(size)}; save the mask in the full size of its "
            f"image{turned_text(mask.shape, size)}"
        )
    return MaskRegion(mask)


def _read_outlines(path: Path, size: tuple[int, int]) -> OutlineRegion:
    annotations = [found for found in read_objects(path) if found.kind == "annotation" and found.plane]
    areas = [area for found in annotations if found.class_name != IGNORE for area in _areas(found)]
    holes = [area for found in annotations if found.class_name == IGNORE for area in _areas(found)]
    if not areas:
        raise CellSegError(f"{path}: has no annotation with an area; draw one in QuPath and export it as GeoJSON")
    height, width = size
    if not any(_meets(area.box, (0, 0, width, height)) for area in areas):
        raise CellSegError(
            f"{path}: lies outside its image of {size_text(size)}; give coordinates in pixels of the full image"
        )
    return OutlineRegion(size, areas, holes)


def _areas(found: GeoObject) -> list[Area]:
    rings = [ring for ring in found.rings if len(ring) > 2]
    return [Area(rings)] if rings else []


def with_regions(images: Sequence[InputImage], source: Path) -> list[InputImage]:
    """Images with the files of their regions.

    Args:
        images: the images.
        source: the region of the only image, or a folder with one per image: ``<name>.geojson``, or a mask
            ``<name>.tif`` or ``<name>.png``; for an image in a folder below the input in a folder of that name.

    Raises:
        CellSegError: there is no such file or folder, it is of no known kind, an image has no region or two, or one
            file is given for several images.
    """
    if source.is_dir():
        return [replace(image, region=_region_in(source, image)) for image in images]
    if not source.is_file():
        raise CellSegError(f"{source}: there is no such file or folder; give --region one that exists")
    if source.suffix.lower() not in (*OUTLINE_SUFFIXES, *LABEL_SUFFIXES):
        raise CellSegError(f"{source}: is no region; give GeoJSON, or a mask in TIFF or PNG")
    if len(images) != 1:
        raise CellSegError(
            f"{source}: is one region for {len(images)} images; give a folder with <name>{SUFFIX} or a mask for each"
        )
    return [replace(image, region=source) for image in images]


def _region_in(folder: Path, image: InputImage) -> Path:
    """An image's region in a folder, which may be that of the images."""
    place = folder / PurePosixPath(image.folder)
    names = {image.name.rpartition("/")[2], image.path.name}
    suffixes = (*OUTLINE_SUFFIXES, *LABEL_SUFFIXES)
    files = [place / f"{name}{suffix}" for name in sorted(names) for suffix in suffixes]
    itself = os.path.realpath(image.path)
    found = [path for path in files if path.is_file() and os.path.realpath(path) != itself]
    if len(found) > 1:
        raise CellSegError(
            f"{found[1]}: is of {image.file_name}, as {found[0].name} is; remove or rename one of the two"
        )
    if not found:
        raise CellSegError(
            f"{folder}: has no region of {image.file_name}; add {image.name}{SUFFIX}, or a mask {image.name}.png"
        )
    return found[0]
