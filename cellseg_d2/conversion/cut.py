"""What conversion and its check share: finding the labelled images, running a task on each, reading and cutting one."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.class_tiffs import LabelledImage, find_samples
from cellseg_d2.annotations.coco import find_coco_samples
from cellseg_d2.cells.coco import Record, annotate
from cellseg_d2.cells.label_maps import LabelMap, measure_cells, split_blobs
from cellseg_d2.cells.tiling import Window, tile_windows
from cellseg_d2.conversion.executors import run_unordered
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.statistics import ImageStatistics, measure_image
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.formats import describe_image
from cellseg_d2.images.listing import InputImage, find_test_images
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class CutSample:
    """A labelled image with every window of its tiling and the annotations of each.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        tiles: window, (x0, y0, x1, y1), and annotations without ids; those without a cell are there too.
        statistics: statistics of the image, its cells and tiles.
    """

    image: NDArray[np.uint8]
    tiles: list[tuple[Window, list[Record]]]
    statistics: ImageStatistics


def find_sources(
    root: Path, options: ConvertOptions, from_coco: Path | None = None
) -> tuple[Sequence[LabelledImage], list[str]]:
    """The labelled images of an input, sorted by id, and the class names; warns of files that belong to no sample.

    Raises:
        CellSegError: there are none, they cannot be told apart, their classes do not match the names given, or a name
            is not UTF-8.
    """
    if from_coco is not None:
        coco_samples, names = find_coco_samples(from_coco, root)
        _refuse_other_than_utf8(sample.image for sample in coco_samples)
        return coco_samples, _class_names(len(names), options.class_names) if options.class_names else names
    samples, unknown = find_samples(root)
    _refuse_other_than_utf8(sample.image.parent for sample in samples)
    for path in unknown:
        logger.warning("%s: belongs to no sample, it is left out", path)
    count = max((number for sample in samples for number in sample.labels), default=0)
    return samples, _class_names(count, options.class_names)


def find_tests(root: Path, from_coco: Path | None = None) -> list[InputImage]:
    """The test images of an input; a COCO file has none.

    Raises:
        CellSegError: they and the id file do not match, or a name is not UTF-8.
    """
    tests = find_test_images(root) if from_coco is None else []
    _refuse_other_than_utf8(test.path for test in tests)
    return tests


def _refuse_other_than_utf8(paths: Iterable[Path]) -> None:
    """Names go into JSON files, log lines and file names, which other programs read as UTF-8."""
    for path in paths:
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise CellSegError(f"{shown}: its name is not UTF-8; rename it") from error


def below(root: Path, lines: Iterable[str]) -> list[str]:
    """Messages that begin with a path, with the path as it is below ``root``, however that was typed.

    A library's own words, quoted further on, may tell the file's absolute path.
    """
    own = f"{str(root).rstrip('/')}/"
    absolute = "|".join(re.escape(f"{str(path).rstrip('/')}/") for path in (root.absolute(), root.resolve()))
    return [re.sub(f"""(?<=['"])({absolute})""", "", line.removeprefix(own)) for line in lines]


def _class_names(count: int, given: Sequence[str]) -> list[str]:
    if not count:
        raise CellSegError("no sample has a label file; put class1.tif, class2.tif, ... beside each image.tif")
    if not given:
        return [f"class{number}" for number in range(1, count + 1)]
    if len(given) < count:
        raise CellSegError(f"{len(given)} class names are given, but there are {count} classes; name all of them")
    return list(given)


def run_in_order(
    executor: Executor, in_flight: int, function: Callable[[Item], Result], items: Sequence[Item], what: str
) -> list[Result]:
    """Runs one task an item, shows the progress as ``what``, and gives the results in the items' order."""
    results = dict(track(run_unordered(executor, function, items, in_flight), len(items), what))
    return [results[number] for number in range(len(items))]


def read_sample(
    sample: LabelledImage, options: ConvertOptions, class_count: int
) -> tuple[NDArray[np.uint8], list[LabelMap]]:
    """The image, (H, W, 3) uint8 RGB, and its label maps, in which blobs are cells where the options say so.

    Raises:
        CellSegError: a file cannot be read or does not fit the others.
    """
    image, layers = sample.read(options.intensity_rule, options.max_pixels, class_count)
    if options.split_blobs:
        layers = [layer if layer.crowd else replace(layer, labels=split_blobs(layer.labels)) for layer in layers]
    return image, layers


def cut_sample(sample: LabelledImage, options: ConvertOptions, class_count: int) -> CutSample:
    """Reads a sample, annotates its tiles and measures it; nothing is written.

    Raises:
        CellSegError: as :func:`read_sample`.
    """
    image, layers = read_sample(sample, options, class_count)
    measures = [measure_cells(layer.labels) for layer in layers]
    height, width = image.shape[:2]
    windows = tile_windows(height, width, options.tile_size, options.overlap)
    tiles = [(window, annotate(layers, window, measures, options.min_area, options.min_visible)) for window in windows]
    pixel_format, pixel_size = describe_image(sample.image)
    statistics = measure_image(sample.id, image, layers, measures, tiles, class_count, pixel_format, pixel_size)
    return CutSample(image, tiles, statistics)
