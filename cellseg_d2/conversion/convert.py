"""Converts labelled images to a tiled COCO dataset; the command ``convert`` calls this module."""

from __future__ import annotations

import logging
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.reader import LabelledImage
from cellseg_d2.cells.arrays import Ints
from cellseg_d2.cells.coco import Record, annotate, dataset
from cellseg_d2.cells.tiling import Window
from cellseg_d2.conversion.channels import CHANNELS_SUFFIX, channel_statistics, channel_sums, encode_channels
from cellseg_d2.conversion.cut import ConversionInput, below, cut_sample, open_input, read_sample, run_in_order
from cellseg_d2.conversion.executors import open_executor
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.split import SplitFile, groups_as_split, read_split_file, split_images
from cellseg_d2.conversion.statistics import ImageStatistics, summarise
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import write_json
from cellseg_d2.images.listing import InputImage
from cellseg_d2.outputs import appear_whole

logger = logging.getLogger(__name__)

IMAGE_SUFFIX = ".png"
"""PNG: lossless, and every COCO tool, browser and labelling tool opens it.

Other formats, measured on the sample's tiles and on H&E-like ones (docs/benchmarks.md has all figures):

- TIFF with zlib level 1 and the predictor: 0.29 and 0.67 of the raw size, written in 15 and 28 ms per megapixel, read
  in training in 14 and 16 ms. That is about the same as PNG, which more programs open.
- TIFF with zstd: H&E is read in 7 instead of 17 ms, the sample in 22 instead of 15 ms; few programs open it.
- Plain TIFF and .npy: read in 4 ms at most, but 1.5 to 3 times the size, often on a shared disk.
- WebP: the smallest (0.17 and 0.60), but 13 to 16 times as long to write.
"""

PNG_SETTINGS = {"level": 1, "strategy": imagecodecs.PNG.STRATEGY.RLE, "filter": imagecodecs.PNG.FILTER.SUB}
"""The best settings measured on the same tiles: written in 23 and 24 ms per megapixel (OpenCV, level 1: 45 and 72),
read in training in 15 and 17 ms (20 and 21), 0.33 and 0.66 of the raw size (0.29 and 0.69). OpenCV's level 6 makes the
sample's files a quarter smaller and those of H&E larger (0.25 and 0.67), and takes 167 and 108 ms to write.
"""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class _TiledSample:
    """A worker's result for one sample: the records and annotations of its tiles, and the statistics of its cells.

    ``channels`` is what :func:`channel_sums` gives; None for RGB.
    """

    id: str
    tiles: list[tuple[Record, list[Record]]]
    empty_tiles: int
    statistics: ImageStatistics | None
    error: str = ""
    channels: Ints | None = None


@dataclass(frozen=True)
class _TestResult:
    """A worker's result for one test image."""

    record: Record
    error: str = ""


def convert(
    root: Path,
    output: Path,
    options: ConvertOptions,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    skip_errors: bool = False,
    split_file: Path | None = None,
    from_coco: Path | None = None,
    annotation_format: str | None = None,
) -> Record:
    """Converts ``root`` to a COCO dataset in ``output``, which appears whole or not at all.

    Args:
        root: the input layout, see :mod:`cellseg_d2.annotations.class_tiffs`; with ``from_coco`` the folder
            of its images.
        output: the dataset's folder; its name is the dataset's.
        options: what determines the content.
        workers: processes; the result does not depend on it.
        scheduler: a Dask scheduler to run on instead, ``tcp://HOST:PORT``.
        overwrite: replace an existing dataset.
        skip_errors: skip images that cannot be read; ``dataset.json`` lists them.
        split_file: the user's split, see :func:`cellseg_d2.conversion.split.read_split_file`.
        from_coco: a COCO file of whole images to tile, instead of label TIFFs.
        annotation_format: the format of the labels, see :func:`cellseg_d2.annotations.readers.find_labelled`.

    Returns:
        The content of ``dataset.json``.

    Raises:
        CellSegError: bad options or input, no tile to train on, ``output`` exists, or the disk is full; ``output`` is
            then as it was.
    """
    given = open_input(
        root,
        options,
        workers=workers,
        scheduler=scheduler,
        annotation_format=annotation_format,
        annotation_file=from_coco,
    )
    for note in given.notes:
        logger.warning("%s", note)
    tests = given.find_tests()
    split = None if split_file is None else read_split_file(split_file, {image.id for image in given.images})
    if scheduler is not None:
        output = output.absolute()
    with appear_whole(output, overwrite) as folder, open_executor(workers, scheduler) as executor:
        run = partial(run_in_order, executor, given.in_flight)
        (folder / "tiles").mkdir()
        work: dict[str, Any] = {"options": options, "folder": folder, "skip_errors": skip_errors}
        tested = run(partial(_write_test_image, **work), tests, None)  # first, so that a bad one is found early
        tiled = run(partial(_tile_sample, **work, class_count=len(given.class_names)), given.images, "images")
        summary = _write_dataset(given, options, split, folder, tiled, tested, run)
        write_json(folder / "dataset.json", summary, indent=1)
    return summary


def _write_dataset(
    given: ConversionInput,
    options: ConvertOptions,
    split: SplitFile | None,
    folder: Path,
    tiled: Sequence[_TiledSample],
    tested: Sequence[_TestResult],
    run: Callable[..., list[Any]],
) -> Record:
    """Splits the workers' results into parts, writes their annotations, and returns the content of ``dataset.json``.

    Raises:
        CellSegError: no labelled image could be read, or no tile is left to train on.
    """
    names = given.class_names
    errors = [error for error in (*(one.error for one in tiled), *(one.error for one in tested)) if error]
    good = [result for result in tiled if not result.error]
    if not good:
        raise CellSegError(errors[0])
    for line in errors:
        logger.warning("skipped: %s", line)
    measured = [result.statistics for result in good if result.statistics is not None]
    cells = {statistics.id: statistics.cells() for statistics in measured}
    train, val = split_images(
        cells, options.val_fraction, options.seed, split or groups_as_split(cells, given.groups())
    )
    counts = _write_parts(folder, good, {"train": set(train), "val": set(val)}, names)
    if val and not sum(counts["val"]["tile_instances"].values()):
        logger.warning(
            "the validation part has no cell in its %d tiles, so no checkpoint can be chosen by it; give another "
            "--split, --seed or --val-fraction",
            counts["val"]["tiles"],
        )
    if val:
        whole = partial(_write_whole, options=options, class_count=len(names), folder=folder)
        by_id = {image.id: image for image in given.images}
        _write_wholes(folder, run(whole, [by_id[name] for name in val], "whole images"), names)
    if images := [result.record for result in tested if not result.error]:
        write_json(folder / "annotations" / "image_info_test.json", dataset(images, None, names))
        counts["test"] = {"images": len(images)}
    (folder / "tiles").rmdir()
    problems = below(given.root, errors)
    return {
        **_describe(options, names),
        **_describe_channels(options, [result for result in good if result.id in train] or good),
        "counts": counts,
        "images": {"train": train, "val": val},
        "skipped": problems,
        "statistics": summarise(measured, names, options, problems),
    }


def _describe(options: ConvertOptions, names: Sequence[str]) -> Record:
    return {
        "format": FORMAT_VERSION,
        "parameters": _parameters(options),
        "class_names": names,
        "intensity_rule": options.intensity_rule,
    }


def _parameters(options: ConvertOptions) -> Record:
    """The options; an RGB dataset says nothing of channels, as before there were others."""
    parameters = {**asdict(options), "class_names": list(options.class_names), "channels": list(options.channels)}
    return {name: value for name, value in parameters.items() if name != "channels" or value}


def _describe_channels(options: ConvertOptions, results: Sequence[_TiledSample]) -> Record:
    """The channels and their statistics over some images; empty for RGB."""
    known = [result.channels for result in results if result.channels is not None]
    return {"channels": channel_statistics(options.channels, known)} if options.channels else {}


def _tile_sample(
    sample: LabelledImage, options: ConvertOptions, class_count: int, folder: Path, skip_errors: bool
) -> _TiledSample:
    """Writes a sample's tile images to ``folder/tiles``."""
    try:
        cut = cut_sample(sample, options, class_count)
    except CellSegError as error:
        if not skip_errors:
            raise
        return _TiledSample(sample.id, [], 0, None, str(error))
    tiles, empty = [], 0
    for window, cells in cut.tiles:
        x0, y0, x1, y1 = window
        if all(annotation["iscrowd"] for annotation in cells):
            empty += 1
            if not _keep_empty(sample.id, window, options):
                continue
        name = f"{sample.id}_y{y0}_x{x0}{suffix_of(options)}"
        tile = cut.image[y0:y1, x0:x1]
        write_image(folder / "tiles" / name, tile, options.channels)
        record = {"file_name": name, **_size(tile), "source": sample.id, "window": list(window)}
        tiles.append((record, cells))
    channels = channel_sums(cut.image) if options.channels else None
    return _TiledSample(sample.id, tiles, empty, cut.statistics, channels=channels)


def _keep_empty(sample_id: str, window: Window, options: ConvertOptions) -> bool:
    """Drawn from a seed made of the tile's place, so that it depends neither on the workers nor on other samples."""
    place = (options.seed, zlib.crc32(sample_id.encode()), *window[:2])
    return bool(np.random.default_rng(place).random() < options.keep_empty)


def _write_parts(
    folder: Path, results: Sequence[_TiledSample], parts: Mapping[str, Collection[str]], names: Sequence[str]
) -> Record:
    """Writes the parts that have an image, and the training part even if it has none; returns their counts.

    Raises:
        CellSegError: there are training images, but no tile of them.
    """
    by_part = {part: [result for result in results if result.id in ids] for part, ids in parts.items()}
    written = [part for part in by_part if by_part[part] or part == "train"]
    counts = {part: _write_part(folder, part, by_part[part], names) for part in written}
    if by_part["train"] and not counts["train"]["tiles"]:
        raise CellSegError(
            "no tile for training is left, since none shows enough of a cell; give a larger --tile-size, a smaller "
            "--min-visible or --min-area, or keep tiles without cells with --keep-empty"
        )
    return counts


def _write_part(folder: Path, part: str, results: Sequence[_TiledSample], names: Sequence[str]) -> Record:
    """Moves the tiles of one part to its folder, writes its JSON and counts what is in it."""
    (folder / part).mkdir(exist_ok=True)
    images, annotations = [], []
    for result in results:
        for record, cells_of_tile in result.tiles:
            (folder / "tiles" / record["file_name"]).rename(folder / part / record["file_name"])
            images.append({**record, "file_name": f"{part}/{record['file_name']}"})
            annotations.append(cells_of_tile)
    write_json(folder / "annotations" / f"instances_{part}.json", dataset(images, annotations, names))
    cells = Counter(cell["category_id"] for in_tile in annotations for cell in in_tile if not cell["iscrowd"])
    whole: Counter[int] = Counter()
    for result in results:
        whole.update(result.statistics.cells() if result.statistics else {})
    return {
        "images": len(results),
        "cells": {name: whole[number] for number, name in enumerate(names, start=1)},
        "tiles": len(images),
        "empty_tiles": sum(result.empty_tiles for result in results),
        "tile_instances": {name: cells[number] for number, name in enumerate(names, start=1)},
        "tile_crowds": sum(cell["iscrowd"] for in_tile in annotations for cell in in_tile),
        "most_instances_in_a_tile": max(
            (sum(not cell["iscrowd"] for cell in in_tile) for in_tile in annotations), default=0
        ),
    }


def _write_wholes(folder: Path, wholes: Sequence[tuple[Record, list[Record]]], names: Sequence[str]) -> None:
    images, annotations = [image for image, _ in wholes], [cells for _, cells in wholes]
    write_json(folder / "annotations" / "instances_val_whole.json", dataset(images, annotations, names))


def _write_whole(
    sample: LabelledImage, options: ConvertOptions, class_count: int, folder: Path
) -> tuple[Record, list[Record]]:
    """Writes a validation image untiled, with all of its cells, whatever their size."""
    image, layers = read_sample(sample, options, class_count)
    name = f"val_whole/{sample.id}{suffix_of(options)}"
    height, width = image.shape[:2]
    tile = folder / "val" / f"{sample.id}_y0_x0{suffix_of(options)}"
    if max(height, width) <= options.tile_size and tile.is_file():  # the image has one tile, which shows all of it
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(tile, folder / name)
    else:
        write_image(folder / name, image, options.channels)
    record = {"file_name": name, **_size(image), "source": sample.id}
    return record, annotate(layers, (0, 0, width, height))


def _write_test_image(test: InputImage, options: ConvertOptions, folder: Path, skip_errors: bool) -> _TestResult:
    try:
        image = test.read(options.pixel_rule, options.max_pixels)
    except CellSegError as error:
        if not skip_errors:
            raise
        return _TestResult({}, str(error))
    name = f"test/{test.path.stem}{suffix_of(options)}"
    write_image(folder / name, image, options.channels)
    return _TestResult({"id": test.id, "file_name": name, **_size(image), "source": test.path.name})


def _size(image: NDArray[np.uint8]) -> Record:
    return {"height": image.shape[0], "width": image.shape[1]}


def suffix_of(options: ConvertOptions) -> str:
    """The suffix of a dataset's images."""
    return CHANNELS_SUFFIX if options.channels else IMAGE_SUFFIX


def write_image(path: Path, image: NDArray[np.uint8], channels: Sequence[str] = ()) -> None:
    """Writes (H, W, 3) uint8 RGB as PNG; with names of channels (H, W, C) uint8 as TIFF, see :func:`encode_channels`.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_channels(image, channels) if channels else encode_png(image))


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """The content of a PNG file with an image, (H, W, 3) uint8 RGB."""
    plain = np.array(image, order="C")  # the encoder takes no view with unusual strides, such as grey made RGB
    return bytes(imagecodecs.png_encode(plain, **PNG_SETTINGS))
