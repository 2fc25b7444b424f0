"""A dataset that was converted earlier, read back to add images to it; its source images need not be around.

The tiles, the untiled validation images and their annotations are on disk. What they do not show, such as the cells of
tiles that were left out and the pixel formats of the sources, is in ``images.json``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.cells.arrays import Ints
from cellseg_d2.cells.coco import Record, by_image
from cellseg_d2.conversion.cut import below
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.parts import TiledSample, Whole, whole_name
from cellseg_d2.conversion.statistics import ImageStatistics
from cellseg_d2.errors import CellSegError, counted, one_line
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.stated import PixelFormat

logger = logging.getLogger(__name__)

IMAGES_FILE = "images.json"

CHANNEL_SUMS = "channel_sums"
"""The key in IMAGES_FILE for an image's :attr:`TiledSample.channels`; images of RGB have none."""

PARTS = ("train", "val")


@dataclass(frozen=True)
class Existing:
    """What a dataset has.

    Attributes:
        folder: its folder.
        options: what it was converted with.
        class_names: the names of class 1, 2, ...
        samples: its images by id.
        parts: image id -> ``train`` or ``val``.
        groups: image id -> group, such as the patient, for images that have one.
        folds: image id -> the fold, from 0, whose validation image it is; empty without folds.
        wholes: untiled images by id.
        tests: the records of its test images.
        skipped: image id -> why it could not be read.
        skipped_tests: the same of test images.
    """

    folder: Path
    options: ConvertOptions
    class_names: list[str]
    samples: Mapping[str, TiledSample]
    parts: Mapping[str, str]
    groups: Mapping[str, str]
    folds: Mapping[str, int]
    wholes: Mapping[str, Whole]
    tests: Sequence[Record]
    skipped: Mapping[str, str]
    skipped_tests: Sequence[str]


NOTHING = Existing(Path(), ConvertOptions(), [], {}, {}, {}, {}, {}, [], {}, [])
"""What a new dataset begins with."""


def write_images(
    folder: Path, samples: Sequence[TiledSample], groups: Mapping[str, str], skipped: Mapping[str, str]
) -> None:
    """Writes IMAGES_FILE, which :func:`read_existing` reads.

    Args:
        folder: the dataset's folder.
        samples: all images that could be read.
        groups: image id -> group, of those that have one.
        skipped: image id -> why it could not be read.
    """
    images = []
    for sample in samples:
        if sample.statistics is not None:
            sums = {} if sample.channels is None else {CHANNEL_SUMS: sample.channels.tolist()}
            images.append({**_to_json(sample.statistics), **sums, "group": groups.get(sample.id, "")})
    write_json(folder / IMAGES_FILE, {"images": images, "skipped": dict(skipped)})


def _to_json(image: ImageStatistics) -> Record:
    columns = {
        "class": image.classes,
        "area": image.areas,
        "width": image.sides[:, 0],
        "height": image.sides[:, 1],
        "blobs": image.blobs,
        "holes": image.holes,
        "whole": image.whole.astype(np.int64),
    }
    return {
        "id": image.id,
        "height": image.height,
        "width": image.width,
        "pixel_format": image.pixel_format,
        "pixel_size_um": image.pixel_size_um,
        "digest": image.digest,
        "shared_pixels": image.shared_pixels,
        "cells": {name: column.tolist() for name, column in columns.items()},
        "tile_cells": image.tile_cells.tolist(),
    }


def _from_json(record: Record, class_count: int) -> ImageStatistics:
    cells = {name: np.array(column, np.int64) for name, column in record["cells"].items()}
    return ImageStatistics(
        id=record["id"],
        height=record["height"],
        width=record["width"],
        pixel_format=record["pixel_format"] and PixelFormat(*record["pixel_format"]),
        pixel_size_um=record["pixel_size_um"] and tuple(record["pixel_size_um"]),
        digest=record["digest"],
        classes=cells["class"],
        areas=cells["area"],
        sides=np.stack([cells["width"], cells["height"]], axis=1),
        blobs=cells["blobs"],
        holes=cells["holes"],
        whole=cells["whole"].astype(bool),
        tile_cells=np.array(record["tile_cells"], np.int64).reshape(-1, class_count),
        shared_pixels=record["shared_pixels"],
    )


def read_existing(folder: Path) -> Existing:
    """Reads a dataset that :func:`cellseg_d2.conversion.convert.convert` has written.

    Raises:
        CellSegError: there is none, it is of a version that kept too little to add to it, or a file is damaged.
    """
    if not (folder / "dataset.json").is_file():
        raise CellSegError(f"{folder}: is no converted dataset (it has no dataset.json); make it with --output first")
    if not (folder / IMAGES_FILE).is_file():
        raise CellSegError(
            f"{folder}: has no {IMAGES_FILE}, since an earlier version converted it; convert its first images again "
            "once, with --overwrite"
        )
    with _expected(folder / "dataset.json"):
        summary = read_json(folder / "dataset.json")
        names, options = list(summary["class_names"]), _options(summary["parameters"])
        parts = {image: part for part in PARTS for image in summary["images"][part]}
        folds = {image: place for place, fold in enumerate(summary.get("folds", ())) for image in fold["val"]}
        lines = list(summary["skipped"])
    with _expected(folder / IMAGES_FILE):
        content = read_json(folder / IMAGES_FILE)
        groups = {record["id"]: record["group"] for record in content["images"] if record["group"]}
        skipped = dict(content["skipped"])
        measured = [_from_json(record, len(names)) for record in content["images"]]
        sums = _channel_sums(folder, content["images"], len(options.channels)) if options.channels else {}
        samples = _samples(folder, measured, parts, sums)
    return Existing(
        folder=folder,
        options=options,
        class_names=names,
        samples=samples,
        parts=parts,
        groups=groups,
        folds=folds,
        wholes=_wholes(folder, "whole" if folds else "val_whole", parts),
        tests=_tests(folder),
        skipped=skipped,
        skipped_tests=[line for line in lines if line not in skipped.values()],
    )


def _channel_sums(folder: Path, images: Sequence[Record], count: int) -> dict[str, Ints]:
    """The sums of the channels' values by image, of which tiles alone would miss those that are left out.

    Raises:
        CellSegError: an earlier version converted the dataset, and kept none.
    """
    if any(CHANNEL_SUMS not in record for record in images):
        raise CellSegError(
            f"{folder / IMAGES_FILE}: has no {CHANNEL_SUMS}, since an earlier version converted it; convert its first "
            "images again once, with --overwrite"
        )
    return {record["id"]: np.array(record[CHANNEL_SUMS], np.int64).reshape(count, 3) for record in images}


def _samples(
    folder: Path, measured: Sequence[ImageStatistics], parts: Mapping[str, str], channel_sums: Mapping[str, Ints]
) -> dict[str, TiledSample]:
    """The images of a dataset with their tiles, by id."""
    tiles: dict[str, list[tuple[Record, list[Record]]]] = {image: [] for image in parts}
    for part in PARTS:
        with _expected(folder / "annotations" / f"instances_{part}.json"):
            for record, cells in _annotated(folder, part):
                tiles[record["source"]].append(({**record, "file_name": _name(record)}, cells))
    return {
        image.id: TiledSample(
            image.id,
            tiles.pop(image.id),
            empty_tiles=int((image.tile_cells.sum(axis=1) == 0).sum()),
            statistics=image,
            pictures=folder / parts[image.id],
            channels=channel_sums.get(image.id),
        )
        for image in measured
    }


def with_old(tiled: Sequence[TiledSample], root: Path, old: Existing) -> tuple[list[TiledSample], dict[str, str]]:
    """All images of the new dataset, sorted by id, and those that could not be read, image id -> why.

    An image that is read again replaces the one that was there; one that cannot be read leaves it as it was.

    Args:
        tiled: the images of this conversion.
        root: their folder.
        old: the dataset that they come to.
    """
    samples = dict(old.samples) | {sample.id: sample for sample in tiled if not sample.error}
    lines = dict(old.skipped) | {sample.id: below(root, [sample.error])[0] for sample in tiled if sample.error}
    skipped = {name: lines[name] for name in sorted(lines) if name not in samples}
    return [samples[name] for name in sorted(samples)], skipped


def refuse_copies(tiled: Sequence[TiledSample], old: Existing) -> None:
    """Refuses a new image with the pixels of one that the dataset has under another name: their labels may differ.

    Raises:
        CellSegError: there is one.
    """
    known = {sample.statistics.digest: name for name, sample in old.samples.items() if sample.statistics is not None}
    for sample in tiled:
        other = known.get(sample.statistics.digest) if sample.statistics is not None else None
        if other is not None and sample.id not in old.samples:
            raise CellSegError(
                f"{sample.id}: has the pixels of {other}, which the dataset has; call it {other} to replace that one, "
                "or leave it out"
            )


def tell_of_changes(tiled: Sequence[TiledSample], old: Existing, val: Collection[str]) -> None:
    """Says what comes to a dataset that is there.

    Args:
        tiled: the images of this conversion.
        old: the dataset that they come to.
        val: ids of all validation images.
    """
    if old is NOTHING:
        return
    read = [sample.id for sample in tiled if not sample.error]
    new = [name for name in read if name not in old.samples]
    to_val = len(set(new).intersection(val))
    logger.info(
        "%s: %s replaced, %s added (%d to train, %d to val)",
        *(old.folder, counted(len(read) - len(new), "image"), counted(len(new), "image"), len(new) - to_val, to_val),
    )
    for sample in tiled:
        if sample.error and sample.id in old.samples:
            logger.warning("%s: the dataset keeps what it had", sample.id)


def _wholes(folder: Path, file: str, parts: Mapping[str, str]) -> dict[str, Whole]:
    """The untiled images by id."""
    with _expected(folder / "annotations" / f"instances_{file}.json"):
        wholes = {
            image["source"]: ({**image, "file_name": whole_name(parts[image["source"]], _name(image))}, cells)
            for image, cells in _annotated(folder, file)
        }
        for name, part in parts.items():
            if name not in wholes and (part == "val" or file == "whole"):
                raise KeyError(name)
    return wholes


def _tests(folder: Path) -> list[Record]:
    """The records of the test images, with their ids."""
    path = folder / "annotations" / "image_info_test.json"
    if not path.is_file():
        return []
    with _expected(path):
        return [{**image, "file_name": f"test/{_name(image)}"} for image in read_json(path)["images"]]


def _name(image: Record) -> str:
    """The name of an image's file, without a folder, which a file from elsewhere may lead out of the dataset."""
    return Path(image["file_name"]).name


def _annotated(folder: Path, part: str) -> list[tuple[Record, list[Record]]]:
    """The images of a part and their annotations, without the ids, which follow from their order; none without it."""
    path = folder / "annotations" / f"instances_{part}.json"
    if not path.is_file():
        return []
    with _expected(path):
        content = read_json(path)
        cells = by_image(content["annotations"])
        return [(_without(image, "id"), [_cell(cell) for cell in cells[image["id"]]]) for image in content["images"]]


def _cell(record: Record) -> Record:
    """An annotation without its ids.

    Raises:
        KeyError: what is counted is missing.
    """
    for key in ("category_id", "iscrowd"):
        record[key]
    return _without(record, "id", "image_id")


def _without(record: Record, *keys: str) -> Record:
    return {key: value for key, value in record.items() if key not in keys}


def _options(parameters: Mapping[str, Any]) -> ConvertOptions:
    names, channels = tuple(parameters["class_names"]), tuple(parameters.get("channels", ()))
    return ConvertOptions(**{**parameters, "class_names": names, "channels": channels})


@contextmanager
def _expected(path: Path) -> Iterator[None]:
    """Names the file in whose content something is missing or of another kind.

    Raises:
        CellSegError: in place of what the block raises then.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CellSegError(f"{path}: is not what `convert` writes ({one_line(error)}); convert again") from error
