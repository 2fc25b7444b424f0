"""Converts labelled images to a tiled COCO dataset; the command ``convert`` calls this module."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.reader import LabelledImage
from cellseg_d2.cells.coco import Record, annotate, dataset
from cellseg_d2.cells.tiling import Window
from cellseg_d2.conversion.channels import CHANNELS_SUFFIX, channel_statistics, channel_sums, encode_channels
from cellseg_d2.conversion.cut import ConversionInput, below, cut_sample, open_input, read_sample, run_in_order
from cellseg_d2.conversion.executors import open_executor
from cellseg_d2.conversion.existing import NOTHING, Existing, refuse_copies, tell_of_changes, with_old, write_images
from cellseg_d2.conversion.folds import deal_folds, write_folds
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.parts import (
    TILES,
    TiledSample,
    Whole,
    place_also,
    place_whole,
    whole_name,
    write_parts,
    write_wholes,
)
from cellseg_d2.conversion.split import SplitFile, groups_as_split, read_split_file, split_images
from cellseg_d2.conversion.statistics import summarise
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
        return fill(folder, given, options, run, split=split, tests=tests, skip_errors=skip_errors)


def fill(
    folder: Path,
    given: ConversionInput,
    options: ConvertOptions,
    run: Callable[..., list[Any]],
    *,
    split: SplitFile | None = None,
    tests: Sequence[InputImage] = (),
    skip_errors: bool = False,
    old: Existing = NOTHING,
) -> Record:
    """Writes a dataset into an empty folder, and returns the content of its ``dataset.json``.

    Args:
        folder: see :func:`cellseg_d2.outputs.appear_whole`.
        given: the labelled images.
        options: what determines the content.
        run: see :func:`cellseg_d2.conversion.cut.run_in_order`, with an executor.
        split: the user's split.
        tests: the test images.
        skip_errors: skip images that cannot be read.
        old: an earlier dataset, whose images come along in their parts unless ``given`` has them too; then without
            ``tests``.

    Raises:
        CellSegError: no labelled image could be read, or no tile is left to train on.
    """
    (folder / TILES).mkdir()
    work: dict[str, Any] = {"options": options, "folder": folder, "skip_errors": skip_errors}
    tested = run(partial(_write_test_image, **work), tests, None)  # first, so that a bad one is found early
    tiled = run(partial(_tile_sample, **work, class_count=len(given.class_names)), given.images, "images")
    summary = _write_dataset(given, options, split, folder, tiled, tested, run, old)
    write_json(folder / "dataset.json", summary, indent=1)
    return summary


def _write_dataset(
    given: ConversionInput,
    options: ConvertOptions,
    split: SplitFile | None,
    folder: Path,
    tiled: Sequence[TiledSample],
    tested: Sequence[_TestResult],
    run: Callable[..., list[Any]],
    old: Existing,
) -> Record:
    """Splits the workers' results into parts, writes their annotations, and returns the content of ``dataset.json``.

    Raises:
        CellSegError: no labelled image could be read, or no tile is left to train on.
    """
    names = given.class_names
    refuse_copies(tiled, old)
    errors = [error for error in (*(one.error for one in tiled), *(one.error for one in tested)) if error]
    if all(sample.error for sample in tiled):
        raise CellSegError(errors[0])
    for line in errors:
        logger.warning("skipped: %s", line)
    samples, skipped = with_old(tiled, given.root, old)
    measured = [sample.statistics for sample in samples if sample.statistics is not None]
    cells = {statistics.id: statistics.cells() for statistics in measured}
    groups = {**given.groups(), **(split.groups if split else {}), **old.groups}
    file = split if split and split.parts else groups_as_split(cells, groups)
    train, val = split_images(cells, options.val_fraction, options.seed, file, old.parts)
    parts = dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    folds = deal_folds(cells, options.folds, options.seed, groups, old.folds) if options.folds else []
    tell_of_changes(tiled, old, val)
    counts = write_parts(folder, samples, {"train": set(train), "val": set(val)}, names)
    if val and not sum(counts["val"]["tile_instances"].values()):
        logger.warning(
            "the validation part has no cell in its %d tiles, so no checkpoint can be chosen by it; give another "
            "--split, --seed or --val-fraction",
            counts["val"]["tiles"],
        )
    wanted = parts if folds else dict.fromkeys(val, "val")
    wholes = _untiled(given, options, folder, samples, wanted, run, old)
    if val:
        write_wholes(folder / "annotations" / "instances_val_whole.json", [wholes[name] for name in val], names)
    described = write_folds(folder, samples, parts, folds, wholes, names) if folds else []
    if tests := _write_tests(folder, tested, old, names):
        counts["test"] = {"images": tests}
    (folder / TILES).rmdir()
    write_images(folder, samples, groups, skipped)
    problems = [*skipped.values(), *old.skipped_tests, *below(given.root, [one.error for one in tested if one.error])]
    return {
        **_describe(options, names),
        **_describe_channels(options, [sample for sample in samples if sample.id in train] or samples),
        "counts": counts,
        "images": {"train": train, "val": val},
        **({"folds": described} if folds else {}),
        "skipped": problems,
        "statistics": summarise(measured, names, options, problems),
    }


def _write_tests(folder: Path, tested: Sequence[_TestResult], old: Existing, names: Sequence[str]) -> int:
    """Writes the list of the test images, where there are any; those of an earlier dataset come along."""
    images = [*old.tests, *(result.record for result in tested if not result.error)]
    for image in old.tests:
        place_also(old.folder / image["file_name"], folder / image["file_name"])
    if images:
        write_json(folder / "annotations" / "image_info_test.json", dataset(images, None, names))
    return len(images)


def _untiled(
    given: ConversionInput,
    options: ConvertOptions,
    folder: Path,
    samples: Sequence[TiledSample],
    wanted: Mapping[str, str],
    run: Callable[..., list[Any]],
    old: Existing,
) -> dict[str, Whole]:
    """Writes the untiled images that are wanted, id -> part, and returns them by id.

    Those that come along from an earlier dataset get a second place, and so do the tiles that show a whole image. The
    others are read a second time: which ones are for validation is known only when all have been counted.
    """
    kept = {sample.id for sample in samples if sample.pictures is not None and sample.id in wanted}
    wholes = {name: old.wholes[name] for name in kept}
    for record, _ in wholes.values():
        place_also(old.folder / record["file_name"], folder / record["file_name"])
    for sample in samples:
        if sample.whole is not None and sample.id in wanted:
            wholes[sample.id] = place_whole(folder, wanted[sample.id], sample, sample.whole)
    new = [(image, wanted[image.id]) for image in given.images if image.id in wanted and image.id not in wholes]
    write = partial(_write_whole, options=options, class_count=len(given.class_names), folder=folder)
    return wholes | {record["source"]: (record, cells) for record, cells in run(write, new, "whole images")}


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


def _describe_channels(options: ConvertOptions, samples: Sequence[TiledSample]) -> Record:
    """The channels and their statistics over some images; empty for RGB."""
    known = [sample.channels for sample in samples if sample.channels is not None]
    return {"channels": channel_statistics(options.channels, known)} if options.channels else {}


def _tile_sample(
    sample: LabelledImage, options: ConvertOptions, class_count: int, folder: Path, skip_errors: bool
) -> TiledSample:
    """Writes a sample's tile images to TILES."""
    try:
        cut = cut_sample(sample, options, class_count)
    except CellSegError as error:
        if not skip_errors:
            raise
        return TiledSample(sample.id, [], 0, None, str(error))
    tiles, empty = [], 0
    for window, cells in cut.tiles:
        x0, y0, x1, y1 = window
        if all(annotation["iscrowd"] for annotation in cells):
            empty += 1
            if not _keep_empty(sample.id, window, options):
                continue
        name = f"{sample.id}_y{y0}_x{x0}{suffix_of(options)}"
        tile = cut.image[y0:y1, x0:x1]
        write_image(folder / TILES / name, tile, options.channels)
        record = {"file_name": name, **_size(tile), "source": sample.id, "window": list(window)}
        tiles.append((record, cells))
    channels = channel_sums(cut.image) if options.channels else None
    whole = cut.whole if tiles else None
    return TiledSample(sample.id, tiles, empty, cut.statistics, channels=channels, whole=whole)


def _keep_empty(sample_id: str, window: Window, options: ConvertOptions) -> bool:
    """Drawn from a seed made of the tile's place, so that it depends neither on the workers nor on other samples."""
    place = (options.seed, zlib.crc32(sample_id.encode()), *window[:2])
    return bool(np.random.default_rng(place).random() < options.keep_empty)


def _write_whole(item: tuple[LabelledImage, str], options: ConvertOptions, class_count: int, folder: Path) -> Whole:
    """Writes an image of a part untiled, with all of its cells, whatever their size."""
    sample, part = item
    read = read_sample(sample, options, class_count)
    name = whole_name(part, f"{sample.id}{suffix_of(options)}")
    write_image(folder / name, read.image, options.channels)
    size = _size(read.image)
    record = {"file_name": name, **size, "source": sample.id}
    return record, annotate(read.label_maps, (0, 0, size["width"], size["height"]))


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
