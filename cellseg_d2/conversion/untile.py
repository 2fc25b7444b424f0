"""The labelled images of a converted dataset as they were before they were cut: pixels and cells in one frame again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools, Ints
from cellseg_d2.cells.coco import Record, by_image, class_places
from cellseg_d2.cells.rle import Runs, decode_runs
from cellseg_d2.cells.tiling import Window
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import INTENSITY_RULE

PARTS = {"train": "instances_train.json", "val": "instances_val_whole.json"}
"""Part -> the file with its cells: validation images are there untiled."""


@dataclass(frozen=True)
class UntiledImage:
    """A labelled image of a dataset.

    Attributes:
        name: the image's id in the input of the conversion.
        part: ``train`` or ``val``.
        size: (height, width), as far as tiles tell: a tile without a cell is not in the dataset.
        tiles: the window of each tile, (x0, y0, x1, y1), and its file.
        runs: the cells' pixels. A cell that tiles cut is whole again, but for parts that were too small to be kept.
        classes: (N,) int64, contiguous, 0 .. K - 1.
        crowd: (N,) bool, regions to ignore, and cells of which no tile shows enough.
        channels: the names of the dataset's channels; empty for RGB.
    """

    name: str
    part: str
    size: tuple[int, int]
    tiles: Sequence[tuple[Window, Path]]
    runs: Runs
    classes: Ints
    crowd: Bools
    channels: tuple[str, ...] = ()

    def read(self, channels: Sequence[str] = ()) -> NDArray[np.uint8]:
        """The pixels, (H, W, 3) uint8 RGB, or (H, W, C) of C channels; black where there is no tile.

        Args:
            channels: names of the dataset's channels, in the order wanted; empty for all of them, or for RGB.

        Raises:
            CellSegError: a tile cannot be read, lacks a channel, or is of another size than the dataset says.
        """
        wanted = tuple(channels) or self.channels
        rule = PixelRule(INTENSITY_RULE, wanted)  # tiles have 8 bit, which no rule changes
        image = np.zeros((*self.size, len(wanted) or 3), np.uint8)
        for (x0, y0, x1, y1), path in self.tiles:
            pixels = read_whole(path, rule)
            if pixels.shape[:2] != (y1 - y0, x1 - x0):
                stated = size_text((y1 - y0, x1 - x0))
                raise CellSegError(f"{path}: is {size_text(pixels.shape)}, its dataset says {stated}; convert again")
            image[y0:y1, x0:x1] = pixels
        return image


def untiled_images(folder: Path, parts: Sequence[str] = tuple(PARTS)) -> Iterator[UntiledImage]:
    """The images of some parts of a converted dataset, each part sorted by name; a part that is not there has none.

    Raises:
        CellSegError: there is no such dataset, or a file is not what ``convert`` writes.
    """
    if not (folder / "dataset.json").is_file():
        raise CellSegError(f"{folder}: is no converted dataset; make one with `cellseg-d2 convert`")
    channels = _channels(folder / "dataset.json")
    for part in parts:
        path = folder / "annotations" / PARTS[part]
        if not path.is_file():
            continue
        content = read_json(path)
        try:
            classes = class_places(content)
            cells, tiles = by_image(content["annotations"]), defaultdict(list)
            for image in content["images"]:
                tiles[str(image["source"])].append(image)
            for name in sorted(tiles):
                yield _join(name, part, folder, tiles[name], cells, classes, channels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CellSegError(f"{path}: is not what convert writes ({one_line(error)}); convert again") from error


def _channels(description: Path) -> tuple[str, ...]:
    """The names of a dataset's channels; empty for RGB."""
    try:
        return tuple(str(channel["name"]) for channel in read_json(description).get("channels", ()))
    except (KeyError, TypeError, AttributeError) as error:
        raise CellSegError(f"{description}: is not what convert writes ({one_line(error)}); convert again") from error


def _join(
    name: str,
    part: str,
    folder: Path,
    tiles: Sequence[Record],
    cells: defaultdict[int, list[Record]],
    classes: dict[int, int],
    channels: tuple[str, ...],
) -> UntiledImage:
    """One image from its tiles; a cell is known by its class and label."""
    windows = [_window(tile) for tile in tiles]
    size = max(window[3] for window in windows), max(window[2] for window in windows)
    pieces: dict[tuple[int, int], list[tuple[Bools, Ints]]] = defaultdict(list)
    whole: dict[tuple[int, int], bool] = defaultdict(bool)
    for tile, (x0, y0, x1, y1) in zip(tiles, windows):
        records = cells[tile["id"]]
        runs = decode_runs([record["segmentation"] for record in records], (y1 - y0, x1 - x0))
        for record, mask, origin in zip(records, runs.crops(), runs.boxes[:, :2]):
            key = classes[record["category_id"]], int(record["label"])
            pieces[key].append((mask, origin + np.array([x0, y0])))
            whole[key] |= not record["iscrowd"]
    joined = [_union(parts) for parts in pieces.values()]
    origins = np.array([origin for _, origin in joined], np.int64).reshape(-1, 2)
    return UntiledImage(
        name,
        part,
        size,
        [(window, folder / tile["file_name"]) for window, tile in zip(windows, tiles)],
        Runs.from_crops([mask for mask, _ in joined], origins, size),
        np.array([number for number, _ in pieces], np.int64),
        np.array([not whole[key] for key in pieces], bool),
        channels,
    )


def _window(tile: Record) -> Window:
    x0, y0, x1, y1 = tile.get("window", (0, 0, tile["width"], tile["height"]))
    return x0, y0, x1, y1


def _union(parts: Sequence[tuple[Bools, Ints]]) -> tuple[Bools, Ints]:
    """One mask, cropped to its cell, and the place of its first pixel."""
    if len(parts) == 1:
        return parts[0]
    corners = np.array([(origin, origin + mask.shape[::-1]) for mask, origin in parts], np.int64)
    start = corners[:, 0].min(axis=0)
    width, height = (corners[:, 1].max(axis=0) - start).tolist()
    joined = np.zeros((height, width), bool)
    for mask, origin in parts:
        x, y = origin - start
        joined[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    return joined, start
