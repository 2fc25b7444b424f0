"""Statistics of a dataset's images and cells: one record per image, and a summary of all records.

A record is made from what conversion has anyway: the runs of the label maps' cells and the tiles' annotations. The
pixels are read once more, for a digest and for pixels that several classes claim.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.label_maps import LabelMap, LayeredCells, count_parts
from cellseg_d2.cells.tiling import Window
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.images.pixel_size import PixelSize
from cellseg_d2.images.stated import PixelFormat

PERCENTILES = (5, 25, 50, 75, 95, 99)

MOST_NAMED = 5
"""Images that are named for each finding; the counts are over all images."""


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """The statistics of one image with N cells, T tiles and K classes; small and picklable.

    Attributes:
        id: the image's id.
        height, width: pixels.
        pixel_format: as in the file; None where it is not known.
        pixel_size_um: (x, y) in microns per pixel; None where the file states none.
        digest: a hash of the size and the pixels.
        classes: (N,) int64, 1 .. K.
        areas: (N,) int64, pixels.
        sides: (N, 2) int64, width and height of the tight boxes.
        blobs: (N,) int64, connected parts.
        holes: (N,) int64.
        whole: (N,) bool, whether at least one tile shows the whole cell.
        tile_cells: (T, K) int64, annotations of each class in each tile, without those with ``iscrowd``.
        shared_pixels: number of pixels in cells of more than one class.
    """

    id: str
    height: int
    width: int
    pixel_format: PixelFormat | None
    pixel_size_um: PixelSize | None
    digest: str
    classes: Ints
    areas: Ints
    sides: Ints
    blobs: Ints
    holes: Ints
    whole: Bools
    tile_cells: Ints
    shared_pixels: int

    def cells(self) -> Counter[int]:
        """Class number -> number of cells."""
        return Counter(self.classes.tolist())


def measure_image(
    name: str,
    image: NDArray[np.uint8],
    cells: LayeredCells,
    tiles: Sequence[tuple[Window, Sequence[Record]]],
    class_count: int,
    pixel_format: PixelFormat | None = None,
    pixel_size_um: PixelSize | None = None,
) -> ImageStatistics:
    """The statistics of one image; label maps marked ``crowd`` do not count.

    Args:
        name: the image's id.
        image: (H, W, 3) uint8 RGB.
        cells: its cells.
        tiles: every window of a regular grid over the image, with its annotations.
        class_count: K.
        pixel_format: the file's pixel format.
        pixel_size_um: the file's pixel size.
    """
    counted = ~cells.crowd
    blobs, holes = count_parts(cells.runs)
    boxes = cells.runs.boxes[counted]
    tile_cells = np.zeros((len(tiles), class_count), np.int64)
    for row, (_, records) in zip(tile_cells, tiles):
        numbers = [record["category_id"] for record in records if not record["iscrowd"]]
        row[:] = np.bincount(np.array(numbers, np.int64), minlength=class_count + 1)[1:]
    height, width = image.shape[:2]
    return ImageStatistics(
        id=name,
        height=height,
        width=width,
        pixel_format=pixel_format,
        pixel_size_um=pixel_size_um,
        digest=_digest(image),
        classes=cells.classes[counted],
        areas=cells.runs.areas[counted],
        sides=boxes[:, 2:] - boxes[:, :2],
        blobs=blobs[counted],
        holes=holes[counted],
        whole=_shown_whole(boxes, [window for window, _ in tiles]),
        tile_cells=tile_cells,
        shared_pixels=_shared_pixels([layer for layer in cells.layers if not layer.crowd]),
    )


def _digest(image: NDArray[np.uint8]) -> str:
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _shown_whole(boxes: Ints, windows: Sequence[Window]) -> Bools:
    """(N,) bool, whether one window of a regular grid contains each box, (x0, y0, x1, y1).

    Along each axis only the last window that starts at or before the box counts, because it reaches farthest.
    """
    whole = np.ones(len(boxes), bool)
    for axis in (0, 1):
        spans = np.array(sorted({(window[axis], window[axis + 2]) for window in windows}))
        last = np.searchsorted(spans[:, 0], boxes[:, axis], side="right") - 1
        whole &= boxes[:, axis + 2] <= spans[last, 1]
    return whole


def _shared_pixels(layers: Sequence[LabelMap]) -> int:
    """The number of pixels in cells of two or more classes; a class may have several layers."""
    if len({layer.categories for layer in layers}) < 2:
        return 0
    by_class: dict[int, Bools] = {}
    for layer in layers:
        cells = layer.labels != 0
        number = layer.categories[0]
        by_class[number] = by_class[number] | cells if number in by_class else cells
    first, *others = by_class.values()
    claimed, shared = first.copy(), np.zeros_like(first)
    for cells in others:
        shared |= claimed & cells
        claimed |= cells
    return int(np.count_nonzero(shared))


def summarise(
    images: Sequence[ImageStatistics],
    class_names: Sequence[str],
    options: ConvertOptions,
    problems: Sequence[str] = (),
) -> Record:
    """The summary of a dataset, ready for JSON; it does not depend on the order of the images.

    A distribution is ``{"min", "p5", ..., "p99", "max"}`` of values that occur, or empty where there are no values.

    Args:
        images: statistics of all images that could be read.
        class_names: names of class 1, 2, ...
        options: the options that the tiles were made with.
        problems: a line for each file that cannot be used.

    Returns:
        A mapping with these keys:

        - ``images``: count, sizes, formats as in the files, microns per pixel where stated, groups of ids with the same
          pixels.
        - ``cells`` and, by class name, ``classes``: count, images with a cell, cells per image, areas, longest box
          sides and square roots of box areas in pixels.
        - ``tiles``: instances in tiles that have one, over all classes and by class, cells that no tile shows whole,
          images of several tiles and the longest box sides in those.
        - ``findings``: cells of several blobs, with holes, below ``min_area``, and pixels of several classes.
        - ``problems``: as given.
    """
    images = sorted(images, key=lambda image: image.id)
    names = dict(enumerate(class_names, start=1))
    pixel_sizes = [sum(image.pixel_size_um) / 2 for image in images if image.pixel_size_um is not None]
    formats = Counter(image.pixel_format for image in images if image.pixel_format is not None)
    return {
        "images": {
            "count": len(images),
            "height": _distribution([image.height for image in images]),
            "width": _distribution([image.width for image in images]),
            "megapixels": _distribution([round(image.height * image.width / 1e6, 3) for image in images]),
            "formats": [
                {"dtype": form.dtype, "bits": form.bits, "channels": form.channels, "images": count}
                for form, count in sorted(formats.items())
            ],
            "pixel_size_um": _distribution(pixel_sizes, digits=4),
            "duplicates": _duplicates(images),
        },
        "cells": _cells(images, None),
        "classes": {name: _cells(images, number) for number, name in names.items()},
        "tiles": _tiles(images, names, options),
        "findings": {
            "several_blobs": _finding({image.id: int((image.blobs > 1).sum()) for image in images}, "cells"),
            "holes": _finding({image.id: int((image.holes > 0).sum()) for image in images}, "cells"),
            "below_min_area": _finding(
                {image.id: int((image.areas < options.min_area).sum()) for image in images}, "cells"
            ),
            "shared_by_classes": _finding({image.id: image.shared_pixels for image in images}, "pixels"),
        },
        "problems": sorted(problems),
    }


def _distribution(values: ArrayLike, digits: int | None = None) -> Record:
    array = np.asarray(values)
    if not array.size:
        return {}
    # a value that occurs, so that whole numbers stay whole and no rounding depends on the platform
    shares = (0, *PERCENTILES, 100)
    found: list[Any] = np.percentile(array, shares, method="inverted_cdf").tolist()
    found = found if digits is None else [round(value, digits) for value in found]
    return dict(zip(("min", *(f"p{share}" for share in PERCENTILES), "max"), found))


def _cells(images: Sequence[ImageStatistics], number: int | None) -> Record:
    """Statistics of the cells of one class, or of all; images without such a cell count, as 0 cells per image."""
    chosen = [np.ones(len(image.classes), bool) if number is None else image.classes == number for image in images]
    counts = [int(cells.sum()) for cells in chosen]
    empty = np.zeros((0, 2), np.int64)
    sides = np.concatenate([empty, *(image.sides[cells] for image, cells in zip(images, chosen))])
    areas = np.concatenate([empty[:, 0], *(image.areas[cells] for image, cells in zip(images, chosen))])
    return {
        "count": sum(counts),
        "images": sum(count > 0 for count in counts),
        "per_image": _distribution(counts),
        "area": _distribution(areas),
        "longest_side": _distribution(sides.max(axis=1)),
        "box_size": _distribution(np.sqrt(sides.prod(axis=1)), digits=1),
    }


def _tiles(images: Sequence[ImageStatistics], names: Mapping[int, str], options: ConvertOptions) -> Record:
    tiles = np.concatenate([np.zeros((0, len(names)), np.int64), *(image.tile_cells for image in images)])
    totals = tiles.sum(axis=1)
    with_cells = int((totals > 0).sum())
    kept = with_cells + options.keep_empty * (len(tiles) - with_cells)  # tiles that training sees, on average
    cells = sum(len(image.whole) for image in images)
    cut = sum(int((~image.whole).sum()) for image in images)
    tiled = [image for image in images if max(image.height, image.width) > options.tile_size]
    sides = np.concatenate([np.zeros((0, 2), np.int64), *(image.sides for image in tiled)]).max(axis=1)
    return {
        "tile_size": options.tile_size,
        "overlap": options.overlap,
        "count": len(tiles),
        "with_cells": with_cells,
        "instances": _distribution(totals[totals > 0]),
        "classes": {
            name: {
                "tiles": int((per_tile > 0).sum()),
                "share": round(int((per_tile > 0).sum()) / max(kept, 1), 4),
                "instances": _distribution(per_tile[per_tile > 0]),
            }
            for name, per_tile in zip(names.values(), tiles.T)
        },
        "cells_cut": {"cells": cut, "share": round(cut / max(cells, 1), 4)},
        "images_of_several": len(tiled),
        "longest_side": _distribution(sides),
    }


def _duplicates(images: Sequence[ImageStatistics]) -> list[list[str]]:
    """Groups of ids of images with the same pixels, each sorted."""
    groups: dict[str, list[str]] = {}
    for image in images:
        groups.setdefault(image.digest, []).append(image.id)
    return sorted(ids for ids in groups.values() if len(ids) > 1)


def _finding(counts: Mapping[str, int], what: str) -> Record:
    """A finding: its count, the number of images with it, and the images with most of it."""
    having = sorted((-count, name) for name, count in counts.items() if count)
    most = [name for _, name in having[:MOST_NAMED]]
    return {what: sum(counts.values()), "images": len(having), "most_in": most}
