"""What conversion and its check share: finding the labelled images, running a task on each, reading and cutting one."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.reader import LabelledImage
from cellseg_d2.annotations.readers import find_labelled
from cellseg_d2.cells.coco import Record, annotate
from cellseg_d2.cells.label_maps import LabelMap, measure_cells, split_blobs
from cellseg_d2.cells.tiling import Window, tile_windows
from cellseg_d2.conversion.executors import run_unordered
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.statistics import ImageStatistics, measure_image
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import refuse_other_than_utf8
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


@dataclass(frozen=True)
class ConversionInput:
    """What is converted.

    Attributes:
        root: the folder, absolute where other machines are to find it.
        images: the labelled images, sorted by id.
        class_names: the names of class 1, 2, ...
        annotation_file: the file of formats that have one.
        in_flight: how many images may wait for a process.
    """

    root: Path
    images: Sequence[LabelledImage]
    class_names: list[str]
    annotation_file: Path | None
    in_flight: int

    def find_tests(self) -> list[InputImage]:
        """The test images beside the labelled ones; there are none beside an annotation file.

        Raises:
            CellSegError: they and the id file do not match, or a name is not UTF-8.
        """
        tests = find_test_images(self.root) if self.annotation_file is None else []
        refuse_other_than_utf8(test.path for test in tests)
        return tests

    def groups(self) -> dict[str, str]:
        """Image id -> group, such as the patient, of images that have one."""
        return {image.id: image.group for image in self.images if image.group}


def open_input(
    root: Path,
    options: ConvertOptions,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    annotation_format: str | None = None,
    annotation_file: Path | None = None,
) -> ConversionInput:
    """Finds what is to be converted or checked; no image is read.

    Args:
        root: the folder of images and labels.
        options: what it is to be converted with.
        workers: processes.
        scheduler: a Dask scheduler to run on instead, ``tcp://HOST:PORT``.
        annotation_format: see :func:`cellseg_d2.annotations.readers.find_labelled`.
        annotation_file: as well.

    Raises:
        CellSegError: bad options, no labelled image, or class names that do not fit the classes.
    """
    options.check()
    if workers < 1:
        raise CellSegError(f"workers must be at least 1, not {workers}")
    if scheduler is not None:  # its workers may have been started in another folder
        root, annotation_file = root.absolute(), annotation_file and annotation_file.absolute()
    found = find_labelled(root, annotation_format, annotation_file)
    merged = [options.merge_classes] if options.merge_classes else []
    names = merged or _class_names(found.class_names, options.class_names)
    in_flight = 2 * workers if scheduler is None else 2 * len(found.images)
    return ConversionInput(root, found.images, names, annotation_file, in_flight)


def below(root: Path, lines: Iterable[str]) -> list[str]:
    """Messages that begin with a path, with the path as it is below ``root``, however that was typed.

    A library's own words, quoted further on, may tell the file's absolute path.
    """
    own = f"{str(root).rstrip('/')}/"
    absolute = "|".join(re.escape(f"{str(path).rstrip('/')}/") for path in (root.absolute(), root.resolve()))
    return [re.sub(f"""(?<=['"])({absolute})""", "", line.removeprefix(own)) for line in lines]


def _class_names(found: list[str], given: Sequence[str]) -> list[str]:
    """The user's names for the classes, else the input's own."""
    if given and len(given) < len(found):
        raise CellSegError(f"{len(given)} class names are given, but there are {len(found)} classes; name all of them")
    return list(given) or found


def run_in_order(
    executor: Executor, in_flight: int, function: Callable[[Item], Result], items: Sequence[Item], what: str | None
) -> list[Result]:
    """Runs one task per item, shows the progress as ``what`` unless it is None, and gives the results in order."""
    done = run_unordered(executor, function, items, in_flight)
    results = dict(done if what is None else track(done, len(items), what))
    return [results[number] for number in range(len(items))]


def read_sample(
    sample: LabelledImage, options: ConvertOptions, class_count: int
) -> tuple[NDArray[np.uint8], list[LabelMap]]:
    """The image, (H, W, 3) uint8 RGB, and its label maps, in which blobs are cells where the options say so.

    Merged classes keep their label maps, so that cells of two classes that overlap stay two cells.

    Raises:
        CellSegError: a file cannot be read or does not fit the others.
    """
    labels = sample.read(options.intensity_rule, options.max_pixels, class_count)
    image, layers = labels.image, labels.label_maps
    if options.merge_classes:
        layers = [replace(layer, categories=(1,)) for layer in layers]
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
    pixel_format, pixel_size = sample.describe()
    statistics = measure_image(sample.id, image, layers, measures, tiles, class_count, pixel_format, pixel_size)
    return CutSample(image, tiles, statistics)
