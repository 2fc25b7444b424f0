# From cellseg_d2. Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""Finds the cells of images with the model in this file's folder.

It needs onnxruntime and numpy, and tifffile for its command line: ``python run.py image.tif labels.tif``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]
Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1), half open."""

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Where the network runs: the first of these that is installed."""


@dataclass(frozen=True)
class Cells:
    """The cells of an image.

    Attributes:
        labels: (H, W) int32, each pixel's cell, counted from 1, the better one of several; 0 where there is none.
        classes: (N,) int64, numbers in ``class_names``.
        scores: (N,) float32 in [0, 1].
        boxes: (N, 4) float32, (x0, y0, x1, y1) in pixels of the image.
        class_names: the names of class 0, 1, ...
    """

    labels: Array
    classes: Array
    scores: Array
    boxes: Array
    class_names: list[str]


class CellModel:
    """The model of a folder.

    Args:
        folder: has ``network.onnx`` and ``model.json``.
        threads: threads of the CPU to use; 0 for all.
    """

    def __init__(self, folder: str | Path = Path(__file__).parent, threads: int = 0) -> None:
        self.settings: dict[str, Any] = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
        self.session = onnxruntime.InferenceSession(str(Path(folder) / "network.onnx"), options, providers=providers)

    def segment(self, image: Array, pixel_size_um: float | None = None, min_score: float | None = None) -> Cells:
        """Finds the cells of an image of any size.

        Args:
            image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, whose alpha is dropped; 8 bit, or any other real type,
                which is scaled as the model's training images were.
            pixel_size_um: microns per pixel, to resample the image to the pixel size of the training images; None
                leaves it as it is.
            min_score: the least score of a cell; None for the model's, by class.

        Raises:
            ValueError: the image has another shape, or the model does not know the pixel size of its training images.
        """
        rgb = as_rgb(image, self.settings["intensity_rule"])
        size = (rgb.shape[0], rgb.shape[1])
        scale = self._scale(pixel_size_um)
        side = max(round(self.settings["tile_size"] / scale), 1)
        found: list[_Cell] = []
        for core, window in tiles(size, side, self.settings["overlap"]):
            x0, y0, x1, y1 = window
            cells = self._detect(rgb[y0:y1, x0:x1], scale)
            found += [cell.of_tile(core, window, size) for cell in cells]
        least = np.array(self.settings["min_scores"] if min_score is None else [min_score] * len(self.class_names))
        joined = joined_cells(found, self.settings["tolerance"])
        good = [cell for cell in joined if cell.stated_score >= least[cell.class_number]]
        shown = visible_cells(good, self.settings["same_iou"], self.settings["most_covered"])
        return painted(shown, size, self.class_names)

    @property
    def class_names(self) -> list[str]:
        """The names of class 0, 1, ..."""
        return list(self.settings["class_names"])

    def _scale(self, pixel_size_um: float | None) -> float:
        """The factor by which an image is enlarged for the network."""
        if pixel_size_um is None:
            return 1.0
        if not self.settings["pixel_size_um"]:
            raise ValueError("the pixel size of the training images is not known; leave out that of the image")
        return float(pixel_size_um / self.settings["pixel_size_um"])

    def _detect(self, crop: Array, scale: float) -> list[_Cell]:
        """All that the network finds in a tile, in pixels of the tile."""
        height, width = crop.shape[:2]
        rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
        shown = crop if scale == 1 else resized(crop, rows, columns)
        pixels = np.ascontiguousarray(shown.transpose(2, 0, 1)[None], np.float32)
        boxes, scores, classes, masks = self.session.run(["boxes", "scores", "classes", "masks"], {"image": pixels})
        boxes = boxes * np.array([width / columns, height / rows] * 2, np.float32)
        cells = []
        for box, score, number, mask in zip(boxes, scores, (classes - 1).tolist(), masks):
            pasted = paste(mask, box, (height, width), self.settings["mask_threshold"])
            if pasted is not None:
                cells.append(_Cell(*pasted, score, number, box))
        return cells


class _Cell(NamedTuple):
    """A cell, and where its tile shows it.

    Attributes:
        bounds: the tight box of its mask.
        mask: (h, w) bool, the pixels in ``bounds``.
        score: how sure the network is.
        class_number: from 0.
        box: (4,) float32, the network's box.
        tile: the window of its tile.
        core_margin: how far its centre lies inside the core of its tile; negative outside.
        depth: how far its centre lies from the edges of its tile.
        is_whole: whether no edge of its tile cuts it.
    """

    bounds: Box
    mask: Array
    score: float
    class_number: int
    box: Array
    tile: Box = (0, 0, 0, 0)
    core_margin: float = np.inf
    depth: float = np.inf
    is_whole: bool = True

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.bounds
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def stated_score(self) -> float:
        return round(float(self.score), 6)

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    def of_tile(self, core: Box, window: Box, size: tuple[int, int]) -> _Cell:
        """The same cell in pixels of the image, of which the tile is a part."""
        x, y = window[:2]
        moved = self._replace(
            bounds=(self.bounds[0] + x, self.bounds[1] + y, self.bounds[2] + x, self.bounds[3] + y),
            box=self.box + np.array([x, y, x, y], np.float32),
            tile=window,
        )
        centre = (*moved.centre, *moved.centre)
        return moved._replace(
            core_margin=margin(centre, core, size),
            depth=margin(centre, window, size),
            is_whole=margin(moved.bounds, window, size) > 0,
        )


def margin(box: Sequence[float], outer: Box, size: tuple[int, int]) -> float:
    """How far a box lies inside an outer one; sides on the border of the image do not count."""
    height, width = size
    inner = (outer[0] > 0, outer[1] > 0, outer[2] < width, outer[3] < height)
    distances = (box[0] - outer[0], box[1] - outer[1], outer[2] - box[2], outer[3] - box[3])
    return min((distance for distance, is_inner in zip(distances, inner) if is_inner), default=np.inf)


def as_rgb(image: Array, rule: str) -> Array:
    """An image as (H, W, 3) uint8; ``rule`` is ``percentile:LOW,HIGH`` or ``range:LOW,HIGH``, for all but 8 bit."""
    colours = image[..., None] if image.ndim == 2 else image[..., :3]
    if colours.ndim != 3 or colours.shape[2] not in (1, 3) or not colours.size:
        raise ValueError(f"an image has the shape (H, W), (H, W, 3) or (H, W, 4), not {image.shape}")
    if colours.dtype == bool:
        colours = colours.astype(np.uint8) * np.uint8(255)
    if not np.isfinite(colours).all():
        raise ValueError("an image holds NaN or infinite values; replace them first")
    if colours.dtype != np.uint8:
        kind, _, numbers = rule.partition(":")
        low, high = (float(number) for number in numbers.split(","))
        if kind == "percentile":
            least, low, high, most = np.percentile(colours.astype(np.float64), (0, low, high, 100)).tolist()
            low, high = (low, high) if low < high else (least, most)  # the cells may be fewer pixels than are left out
        precise = np.float32 if colours.dtype.itemsize <= 2 or colours.dtype == np.float32 else np.float64
        factor = 255 / (high - low) if high > low else 0
        scaled: Array = colours.astype(precise)
        colours = np.clip(np.rint((scaled - low) * factor), 0, 255).astype(np.uint8)
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def tiles(size: tuple[int, int], side: int, overlap: float) -> Iterator[tuple[Box, Box]]:
    """The cores that partition an image, each with the window around it that the network sees."""
    height, width = size
    halo = 0 if height <= side and width <= side else min(round(side * overlap / 2), (side - 1) // 2)
    step = side - 2 * halo
    for y in range(0, height, step):
        for x in range(0, width, step):
            core = (x, y, min(x + step, width), min(y + step, height))
            low = max(x - halo, 0), max(y - halo, 0)
            yield core, (*low, min(core[2] + halo, width), min(core[3] + halo, height))


def linear_weights(positions: Array, count: int) -> Array:
    """(P, count): how ``count`` samples at 0, 1, ... are mixed at each position; between them by their distance."""
    return np.maximum(1 - np.abs(positions[:, None] - np.arange(count, dtype=np.float32)), 0).astype(np.float32)


def area_weights(count: int, source: int) -> Array:
    """(count, source): the share of each of ``source`` pixels in ``count`` larger ones."""
    edges = np.arange(count + 1) * source / count
    first = np.arange(source)
    shared = np.minimum(edges[1:, None], first + 1) - np.maximum(edges[:-1, None], first)
    return (np.maximum(shared, 0) * count / source).astype(np.float32)


def resized(image: Array, rows: int, columns: int) -> Array:
    """An (H, W, 3) uint8 image in another size: means of pixels where it becomes smaller, else between pixels."""

    def weights(count: int, source: int) -> Array:
        if rows < image.shape[0] or columns < image.shape[1]:
            return area_weights(count, source)
        positions = (np.arange(count) + 0.5) * source / count - 0.5
        return linear_weights(np.clip(positions, 0, source - 1).astype(np.float32), source)

    vertical, horizontal = weights(rows, image.shape[0]), weights(columns, image.shape[1])
    planes = [vertical @ image[..., channel].astype(np.float32) @ horizontal.T for channel in range(3)]
    return np.clip(np.rint(np.stack(planes, axis=2)), 0, 255).astype(np.uint8)


def paste(mask: Array, box: Array, size: tuple[int, int], threshold: float) -> tuple[Box, Array] | None:
    """The pixels of a cell, from (M, M) probabilities inside its box: their tight box, and (h, w) bool; or None."""
    limit = np.array(size[::-1])
    # one pixel more on each side, because samples fade out just outside the box
    low = np.minimum(np.maximum(np.floor(box[:2]) - 1, 0), limit).astype(int)
    high = np.minimum(np.ceil(box[2:]) + 1, limit).astype(int)
    extent = np.maximum(box[2:] - box[:2], 1e-6)
    if (high <= low).any():
        return None
    x, y = (
        (np.arange(low[axis], high[axis], dtype=np.float32) + 0.5 - box[axis]) / extent[axis] * len(mask) - 0.5
        for axis in (0, 1)
    )
    pixels = linear_weights(y, len(mask)) @ mask @ linear_weights(x, len(mask)).T >= threshold
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    top, left, bottom, right = (int(number) for number in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    x0, y0 = (int(number) for number in low)
    return (x0 + left, y0 + top, x0 + right, y0 + bottom), pixels[top:bottom, left:right]


def common(one: _Cell, other: _Cell) -> tuple[Array, Array]:
    """Both masks where their boxes overlap, as views."""
    x0, y0 = max(one.bounds[0], other.bounds[0]), max(one.bounds[1], other.bounds[1])
    x1, y1 = min(one.bounds[2], other.bounds[2]), min(one.bounds[3], other.bounds[3])

    def part(cell: _Cell) -> Array:
        x, y = cell.bounds[:2]
        return cell.mask[max(y0 - y, 0) : max(y1 - y, 0), max(x0 - x, 0) : max(x1 - x, 0)]

    return part(one), part(other)


def bounds_of(cells: Sequence[_Cell]) -> Array:
    """(N, 4) int, the tight boxes of cells."""
    return np.array([cell.bounds for cell in cells], int).reshape(-1, 4)


def meeting(cell: _Cell, bounds: Array) -> Array:
    """The numbers of the boxes, (N, 4), that overlap a cell's."""
    x0, y0, x1, y1 = cell.bounds
    meets = (bounds[:, 0] < x1) & (bounds[:, 2] > x0) & (bounds[:, 1] < y1) & (bounds[:, 3] > y0)
    return np.flatnonzero(meets)


def joined_cells(found: list[_Cell], tolerance: int) -> list[_Cell]:
    """One cell for what several tiles show, from top to bottom.

    A tile answers for the cells whose centre lies in its core, or up to ``tolerance`` pixels outside, since two tiles
    may differ by that. Of a cell that two tiles answer for, the one deeper inside its tile stays. A cell that is wider
    than the overlap of the tiles may become several.
    """
    owned = [cell for cell in found if cell.core_margin >= (-tolerance if cell.is_whole else 0)]
    kept = [cell for cell in owned if abs(cell.core_margin) > 2 * tolerance]
    near_edge = [cell for cell in owned if abs(cell.core_margin) <= 2 * tolerance]  # only these may be in two tiles
    near_edge.sort(key=lambda cell: (-cell.depth, -cell.score))
    bounds = bounds_of(near_edge)
    stays = np.zeros(len(near_edge), bool)
    for number, cell in enumerate(near_edge):
        others = [near_edge[place] for place in meeting(cell, bounds[:number]) if stays[place]]
        stays[number] = not any(is_same(cell, other, tolerance) for other in others if other.tile != cell.tile)
    kept += [near_edge[number] for number in np.flatnonzero(stays)]
    return sorted(kept, key=lambda cell: (cell.centre[1], cell.centre[0]))


def is_same(one: _Cell, other: _Cell, tolerance: int) -> bool:
    """Whether two tiles show the same cell."""
    shared = np.count_nonzero(np.logical_and(*common(one, other)))
    is_close = max(abs(a - b) for a, b in zip(one.centre, other.centre)) <= tolerance
    return bool(2 * shared > (min(one.area, other.area) if is_close else one.area + other.area - shared))


def visible_cells(cells: list[_Cell], same_iou: float, most_covered: float) -> list[_Cell]:
    """The cells that no better one hides, whatever their classes, the best first.

    A cell is hidden if its IoU with a better one that stays is above ``same_iou``, or if those cover more than
    ``most_covered`` of it.
    """
    ranked = sorted(cells, key=lambda cell: -cell.stated_score)
    bounds, stays = bounds_of(ranked), np.zeros(len(ranked), bool)
    for rank, cell in enumerate(ranked):
        left, is_shown = cell._replace(mask=cell.mask.copy()), False
        for place in meeting(cell, bounds[:rank]):
            if stays[place]:
                pixels, others = common(cell, ranked[place])
                shared = np.count_nonzero(pixels & others)
                is_shown |= bool(shared > same_iou * (cell.area + ranked[place].area - shared))
                common(left, ranked[place])[0][others] = False  # a view of the mask
        stays[rank] = not is_shown and cell.area - left.area <= most_covered * cell.area
    return [ranked[rank] for rank in np.flatnonzero(stays)]


def painted(cells: Sequence[_Cell], size: tuple[int, int], class_names: list[str]) -> Cells:
    """Cells, the best first, as arrays."""
    labels = np.zeros(size, np.int32)
    for number in range(len(cells), 0, -1):
        x0, y0, x1, y1 = cells[number - 1].bounds
        labels[y0:y1, x0:x1][cells[number - 1].mask] = number
    return Cells(
        labels,
        np.array([cell.class_number for cell in cells], np.int64),
        np.array([cell.score for cell in cells], np.float32),
        np.array([cell.box for cell in cells], np.float32).reshape(-1, 4),
        class_names,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: reads a TIFF, writes its label map as a TIFF, and prints how many cells there are."""
    import tifffile

    parser = argparse.ArgumentParser(description="Finds the cells of an image.")
    parser.add_argument("image", type=Path, help="a TIFF: grey, RGB or RGBA")
    parser.add_argument("labels", type=Path, help="the TIFF to write: each pixel's cell, 0 for none")
    parser.add_argument("--pixel-size", type=float, metavar="UM", help="microns per pixel, to resample the image")
    parser.add_argument("--min-score", type=float, metavar="S", help="the least score of a cell")
    options = parser.parse_args(arguments)
    try:
        image = np.squeeze(tifffile.imread(options.image))
        cells = CellModel().segment(image, options.pixel_size, options.min_score)
        kind = np.uint16 if len(cells.scores) < 2**16 else np.int32
        tifffile.imwrite(options.labels, cells.labels.astype(kind))
    except (OSError, ValueError) as error:  # tifffile's are ValueErrors
        parser.exit(2, f"error: {options.image}: {error}\n")
    counts = np.bincount(cells.classes, minlength=len(cells.class_names)).tolist()
    print(", ".join(f"{count} {name}" for count, name in zip(counts, cells.class_names)))


if __name__ == "__main__":
    main()
