"""Writes the parts of a dataset, training and validation: their tiles, annotations and counts."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellseg_d2.cells.arrays import Ints
from cellseg_d2.cells.coco import Record, dataset
from cellseg_d2.conversion.statistics import ImageStatistics
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import write_json

Whole = tuple[Record, list[Record]]
"""The record of an untiled image, and the annotations of all of its cells."""

TILES = "tiles"
"""The folder of tiles before the parts are known."""


@dataclass(frozen=True)
class TiledSample:
    """An image as it is in a dataset.

    Attributes:
        id: the image's id.
        tiles: the record and the annotations of each tile, in the order of the windows.
        empty_tiles: tiles without a cell, kept or not.
        statistics: the statistics of its cells; None where it could not be read.
        error: why it could not be read; empty where it could.
        pictures: the folder of its tiles' pictures in an earlier dataset, where they stay; None for those in TILES.
        channels: what :func:`cellseg_d2.conversion.channels.channel_sums` gives; None for RGB.
        whole: the annotations of the untiled image where its only tile shows all of it; None for other images, which
            have to be read a second time if they are wanted untiled.
    """

    id: str
    tiles: list[tuple[Record, list[Record]]]
    empty_tiles: int
    statistics: ImageStatistics | None
    error: str = ""
    pictures: Path | None = None
    channels: Ints | None = None
    whole: list[Record] | None = None


def place_also(source: Path, target: Path) -> None:
    """Gives a file a second place: a hard link where the file system has them, else a copy. Neither may be changed.

    Raises:
        CellSegError: there is no such file.
    """
    if not source.is_file():
        raise CellSegError(f"{source}: is missing, though the dataset names it; convert again from the first images")
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def whole_name(part: str, file: str) -> str:
    """The name of an untiled image below the dataset's folder; those of training are there for folds alone."""
    return f"{part}_whole/{file}"


def place_whole(folder: Path, part: str, sample: TiledSample, cells: list[Record]) -> Whole:
    """Gives the only tile of an image a second place, as its untiled image; it is in the folder of its part by now."""
    tile, _ = sample.tiles[0]
    name = whole_name(part, f"{sample.id}{Path(tile['file_name']).suffix}")
    place_also(folder / part / tile["file_name"], folder / name)
    return {"file_name": name, "height": tile["height"], "width": tile["width"], "source": sample.id}, cells


def write_parts(
    folder: Path, samples: Sequence[TiledSample], parts: Mapping[str, Collection[str]], names: Sequence[str]
) -> Record:
    """Writes the parts that have an image, and the training part even if it has none; returns their counts.

    Raises:
        CellSegError: there are training images, but no tile of them.
    """
    by_part = {part: [sample for sample in samples if sample.id in ids] for part, ids in parts.items()}
    written = {part: of_part for part, of_part in by_part.items() if of_part or part == "train"}
    counts = {}
    for part, of_part in written.items():
        _place_tiles(folder, part, of_part)
        places = {sample.id: part for sample in of_part}
        path = folder / "annotations" / f"instances_{part}.json"
        counts[part] = write_annotations(path, of_part, places, names)
    if by_part["train"] and not counts["train"]["tiles"]:
        raise CellSegError(
            "no tile for training is left, since none shows enough of a cell; give a larger --tile-size, a smaller "
            "--min-visible or --min-area, or keep tiles without cells with --keep-empty"
        )
    return counts


def _place_tiles(folder: Path, part: str, samples: Sequence[TiledSample]) -> None:
    """Moves the tiles of one part to its folder; those of an earlier dataset get a second place there."""
    (folder / part).mkdir(exist_ok=True)
    for sample in samples:
        for name in (record["file_name"] for record, _ in sample.tiles):
            if sample.pictures is None:
                (folder / TILES / name).rename(folder / part / name)
            else:
                place_also(sample.pictures / name, folder / part / name)


def write_annotations(
    path: Path, samples: Sequence[TiledSample], parts: Mapping[str, str], names: Sequence[str]
) -> Record:
    """Writes the annotations of the tiles of some images, and counts what is in them.

    Args:
        path: the file.
        samples: the images.
        parts: image id -> the part in whose folder its tiles are.
        names: names of class 1, 2, ...
    """
    images, annotations = [], []
    for sample in samples:
        for record, cells_of_tile in sample.tiles:
            images.append({**record, "file_name": f"{parts[sample.id]}/{record['file_name']}"})
            annotations.append(cells_of_tile)
    write_json(path, dataset(images, annotations, names))
    # by class, from 1 on; 0 counts what is ignored
    in_tiles = [Counter(0 if cell["iscrowd"] else cell["category_id"] for cell in cells) for cells in annotations]
    cells = sum(in_tiles, Counter[int]())
    whole: Counter[int] = Counter()
    for sample in samples:
        whole.update(sample.statistics.cells() if sample.statistics else {})
    return {
        "images": len(samples),
        "cells": {name: whole[number] for number, name in enumerate(names, start=1)},
        "tiles": len(images),
        "empty_tiles": sum(sample.empty_tiles for sample in samples),
        "tile_instances": {name: cells[number] for number, name in enumerate(names, start=1)},
        "tile_crowds": cells[0],
        "most_instances_in_a_tile": max((counts.total() - counts[0] for counts in in_tiles), default=0),
    }


def write_wholes(path: Path, wholes: Sequence[Whole], names: Sequence[str]) -> None:
    """Writes the annotations of untiled images."""
    write_json(path, dataset([image for image, _ in wholes], [cells for _, cells in wholes], names))
