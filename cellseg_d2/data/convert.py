"""Sample folders -> a tiled COCO dataset: the library behind tools/convert_tifs.py."""

from __future__ import annotations

import errno
import logging
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.data.coco_json import Record, annotate, dataset, label_areas, write_json
from cellseg_d2.data.executors import open_executor, run_unordered
from cellseg_d2.data.samples import Sample, TestImage, find_samples, find_test_images
from cellseg_d2.data.split import stratified_split
from cellseg_d2.data.tiff import INTENSITY_RULE, IntensityRule
from cellseg_d2.data.tiling import Window, overlap_pixels, tile_windows
from cellseg_d2.errors import CellSegError
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

IMAGE_SUFFIX = ".png"
"""Lossless and read by every COCO tool."""

PNG_COMPRESSION = 1
"""zlib's fastest level: a tile is written once and read every epoch, and higher levels gain little on noisy images."""

FORMAT_VERSION = 1

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ConvertOptions:
    """What decides the content of a dataset; all of it goes into ``dataset.json``.

    Attributes:
        tile_size: largest side of a tile in pixels.
        overlap: share of the tile size that neighbours have in common, in [0, 1).
        val_fraction: share of the images that go to validation, in [0, 1).
        seed: of the split and of the empty tiles that are kept.
        class_names: of class 1, 2, ...; ``class1``, ``class2``, ... where none are given.
        min_area: cells with fewer pixels in a tile are left out of it.
        min_visible: a cell of which a tile shows less than this share becomes ``iscrowd: 1`` there.
        keep_empty: share of the tiles without a cell that are kept, in [0, 1].
        intensity_rule: how images that are not 8 bit are scaled, see :class:`cellseg_d2.data.tiff.IntensityRule`.
    """

    tile_size: int = 512
    overlap: float = 0.0
    val_fraction: float = 0.2
    seed: int = 42
    class_names: tuple[str, ...] = ()
    min_area: int = 10
    min_visible: float = 0.3
    keep_empty: float = 0.0
    intensity_rule: str = INTENSITY_RULE

    def check(self) -> None:
        """Raises CellSegError where a value is out of its range."""
        try:
            overlap_pixels(self.tile_size, self.overlap)
        except ValueError as error:
            raise CellSegError(str(error)) from error
        IntensityRule.parse(self.intensity_rule)
        if not 0 <= self.val_fraction < 1:
            raise CellSegError(f"val_fraction must be in [0, 1), not {self.val_fraction}")
        if self.seed < 0 or self.min_area < 0:
            raise CellSegError("seed and min_area must not be negative")
        if not (0 <= self.min_visible <= 1 and 0 <= self.keep_empty <= 1):
            raise CellSegError("min_visible and keep_empty must be in [0, 1]")
        if len(set(self.class_names)) != len(self.class_names):
            raise CellSegError(f"class names must differ: {' '.join(self.class_names)}")


@dataclass(frozen=True)
class _TiledSample:
    """What a worker gives back of one sample: its tiles' records and annotations, and its cells by class number."""

    id: str
    tiles: list[tuple[Record, list[Record]]]
    empty_tiles: int
    cells: dict[int, int]
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
) -> Record:
    """Converts ``root`` to a COCO dataset in ``output``, which appears whole or not at all.

    Args:
        root: the input layout, see :mod:`cellseg_d2.data.samples`.
        output: the dataset's folder; its name is the dataset's.
        options: what decides the content.
        workers: processes; the result does not depend on it.
        scheduler: a Dask scheduler to run on instead, ``tcp://HOST:PORT``.
        overwrite: replace an existing dataset.
        skip_errors: go on without samples that cannot be read; they are listed in ``dataset.json``.

    Returns:
        The content of ``dataset.json``.

    Raises:
        CellSegError: bad options or input, ``output`` exists, or the disk is full; ``output`` is then as it was.
    """
    options.check()
    if workers < 1:
        raise CellSegError(f"workers must be at least 1, not {workers}")
    samples, unknown = find_samples(root)
    tests = find_test_images(root)
    for path in unknown:
        logger.warning("%s: belongs to no sample, it is left out", path)
    names = _class_names(samples, options.class_names)
    in_flight = 2 * workers if scheduler is None else 2 * len(samples)
    with _appear_whole(output, overwrite) as folder, open_executor(workers, scheduler) as executor:
        run = partial(_run, executor, in_flight)
        for name in ("tiles", "train"):
            (folder / name).mkdir()
        tile = partial(_tile_sample, options=options, folder=folder, skip_errors=skip_errors)
        tiled = run(tile, samples, "tiles")
        skipped = [result for result in tiled if result.error]
        if len(skipped) == len(samples):
            raise CellSegError(skipped[0].error)
        for result in skipped:
            logger.warning("skipped: %s", result.error)
        good = [result for result in tiled if not result.error]
        train, val = stratified_split({result.id: result.cells for result in good}, options.val_fraction, options.seed)
        counts = {"train": _write_part(folder, "train", [result for result in good if result.id in set(train)], names)}
        if val:
            counts["val"] = _write_part(folder, "val", [result for result in good if result.id in set(val)], names)
            wholes = [sample for sample in samples if sample.id in set(val)]
            whole = partial(_write_whole, rule=options.intensity_rule, folder=folder)
            _write_wholes(folder, run(whole, wholes, "whole images"), names)
        if tests:
            test = partial(_write_test_image, rule=options.intensity_rule, folder=folder)
            images = run(test, tests, "test images")
            write_json(folder / "annotations" / "image_info_test.json", dataset(images, None, names))
            counts["test"] = {"images": len(images)}
        (folder / "tiles").rmdir()
        summary = {
            "format": FORMAT_VERSION,
            "parameters": {**asdict(options), "class_names": list(options.class_names)},
            "class_names": names,
            "intensity_rule": options.intensity_rule,
            "counts": counts,
            "images": {"train": train, "val": val},
            "skipped": [result.error.replace(f"{root}/", "") for result in skipped],
        }
        write_json(folder / "dataset.json", summary, indent=1)
    return summary


def _run(
    executor: Executor, in_flight: int, function: Callable[[Item], Result], items: Sequence[Item], what: str
) -> list[Result]:
    """Runs one task an item and gives the results in the items' order."""
    results = dict(track(run_unordered(executor, function, items, in_flight), len(items), what))
    return [results[number] for number in range(len(items))]


def _class_names(samples: Sequence[Sample], given: Sequence[str]) -> list[str]:
    count = max((number for sample in samples for number in sample.labels), default=0)
    if not count:
        raise CellSegError("no sample has a label file; put class1.tif, class2.tif, ... beside each image.tif")
    if not given:
        return [f"class{number}" for number in range(1, count + 1)]
    if len(given) < count:
        raise CellSegError(f"{len(given)} class names are given, but there is a class{count}.tif; name all classes")
    return list(given)


def _tile_sample(sample: Sample, options: ConvertOptions, folder: Path, skip_errors: bool) -> _TiledSample:
    """Writes a sample's tile images to ``folder/tiles``."""
    try:
        image, label_maps = sample.read(options.intensity_rule)
    except CellSegError as error:
        if not skip_errors:
            raise
        return _TiledSample(sample.id, [], 0, {}, str(error))
    areas = {number: label_areas(label_map) for number, label_map in label_maps.items()}
    tiles, empty = [], 0
    height, width = image.shape[:2]
    for window in tile_windows(height, width, options.tile_size, options.overlap):
        x0, y0, x1, y1 = window
        annotations = annotate(label_maps, window, areas, options.min_area, options.min_visible)
        if all(annotation["iscrowd"] for annotation in annotations):
            empty += 1
            if not _keep_empty(sample.id, window, options):
                continue
        name = f"{sample.id}_y{y0}_x{x0}{IMAGE_SUFFIX}"
        write_image(folder / "tiles" / name, image[y0:y1, x0:x1])
        record = {"file_name": name, **_size(image[y0:y1, x0:x1]), "source": sample.id, "window": list(window)}
        tiles.append((record, annotations))
    cells = {number: len(ids) for number, (ids, _) in areas.items()}
    return _TiledSample(sample.id, tiles, empty, cells)


def _keep_empty(sample_id: str, window: Window, options: ConvertOptions) -> bool:
    """Drawn from the tile's own place, so that it depends neither on the workers nor on the other samples."""
    place = (options.seed, zlib.crc32(sample_id.encode()), *window[:2])
    return bool(np.random.default_rng(place).random() < options.keep_empty)


def _write_part(folder: Path, part: str, results: Sequence[_TiledSample], names: Sequence[str]) -> Record:
    """Moves the tiles of one part to its folder, writes its JSON and counts what is in it."""
    (folder / part).mkdir(exist_ok=True)
    images, annotations = [], []
    for result in results:
        for record, own in result.tiles:
            (folder / "tiles" / record["file_name"]).rename(folder / part / record["file_name"])
            images.append({**record, "file_name": f"{part}/{record['file_name']}"})
            annotations.append(own)
    write_json(folder / "annotations" / f"instances_{part}.json", dataset(images, annotations, names))
    cells = Counter(annotation["category_id"] for own in annotations for annotation in own if not annotation["iscrowd"])
    whole: Counter[int] = Counter()
    for result in results:
        whole.update(result.cells)
    return {
        "images": len(results),
        "cells": {name: whole[number] for number, name in enumerate(names, start=1)},
        "tiles": len(images),
        "empty_tiles": sum(result.empty_tiles for result in results),
        "tile_instances": {name: cells[number] for number, name in enumerate(names, start=1)},
        "tile_crowds": sum(annotation["iscrowd"] for own in annotations for annotation in own),
        "most_instances_in_a_tile": max((len(own) for own in annotations), default=0),
    }


def _write_wholes(folder: Path, wholes: Sequence[tuple[Record, list[Record]]], names: Sequence[str]) -> None:
    images, annotations = [image for image, _ in wholes], [own for _, own in wholes]
    write_json(folder / "annotations" / "instances_val_whole.json", dataset(images, annotations, names))


def _write_whole(sample: Sample, rule: str, folder: Path) -> tuple[Record, list[Record]]:
    """Writes a validation image untiled; every cell of it is kept, whatever its size."""
    image, label_maps = sample.read(rule)
    name = f"val_whole/{sample.id}{IMAGE_SUFFIX}"
    write_image(folder / name, image)
    height, width = image.shape[:2]
    record = {"file_name": name, **_size(image), "source": sample.id}
    return record, annotate(label_maps, (0, 0, width, height))


def _write_test_image(test: TestImage, rule: str, folder: Path) -> Record:
    image = test.read(rule)
    name = f"test/{test.path.stem}{IMAGE_SUFFIX}"
    write_image(folder / name, image)
    return {"id": test.id, "file_name": name, **_size(image), "source": test.path.name}


def _size(image: NDArray[np.uint8]) -> Record:
    return {"height": image.shape[0], "width": image.shape[1]}


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes (H, W, 3) uint8 RGB as PNG.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    path.parent.mkdir(exist_ok=True)
    _, encoded = cv2.imencode(IMAGE_SUFFIX, image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    path.write_bytes(encoded.tobytes())  # not cv2.imwrite, which says nothing of a full disk


@contextmanager
def _appear_whole(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``output`` to write into; it takes ``output``'s place at the end, or goes if anything fails."""
    partial_folder = output.parent / f".{output.name}.partial"
    old = output.parent / f".{output.name}.old"
    _put_back(old, output)  # of a run that was killed between the two renames
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not overwrite:
            raise CellSegError(f"{output}: exists already; give another --output, or --overwrite to replace it")
        if not (output / "dataset.json").is_file():
            raise CellSegError(f"{output}: is no converted dataset, so it is not overwritten; give another --output")
    try:
        for leftover in (partial_folder, old):  # of a run that was killed
            if leftover.exists():
                shutil.rmtree(leftover)
        partial_folder.mkdir(parents=True)
        yield partial_folder
        if output.exists():
            output.rename(old)
        partial_folder.rename(output)
        if old.exists():
            shutil.rmtree(old)
    except BaseException as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        _put_back(old, output)
        if not isinstance(error, OSError):
            raise
        mend = "make room there" if error.errno == errno.ENOSPC else "mend that"
        raise CellSegError(f"{output}: cannot be written ({error.strerror or error}); {mend} and run again") from error


def _put_back(old: Path, output: Path) -> None:
    """Gives a dataset that was moved aside its name back, unless another has taken it."""
    if old.exists() and not output.exists():
        old.rename(output)
