"""Steps that conversion and its check share: find the labelled images, run a task on each, read one and cut it."""

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

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage
from cellseg_d2.annotations.readers import find_labelled
from cellseg_d2.cells.coco import Record, annotate
from cellseg_d2.cells.label_maps import LayeredCells, split_blobs
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
    """A labelled image cut into tiles.

    Attributes:
        image: (H, W, 3) uint8 RGB, or (H, W, C) of the options' channels.
        tiles: per tile its window, (x0, y0, x1, y1), and its annotations without ids; tiles without a cell included.
        whole: the annotations of the untiled image where one tile shows all of it, else None.
        statistics: statistics of the image, its cells and tiles.
    """

    image: NDArray[np.uint8]
    tiles: list[tuple[Window, list[Record]]]
    whole: list[Record] | None
    statistics: ImageStatistics


@dataclass(frozen=True)
class ConversionInput:
    """The labelled images to convert, and how to work on them.

    Attributes:
        root: the folder; absolute where a Dask cluster reads it.
        images: the labelled images, sorted by id.
        class_names: the names of class 1, 2, ...
        annotation_file: the annotation file, for formats that have one.
        in_flight: how many images may be handed out to processes at a time.
        notes: see :class:`LabelledSet`.
    """

    root: Path
    images: Sequence[LabelledImage]
    class_names: list[str]
    annotation_file: Path | None
    in_flight: int
    notes: Sequence[str] = ()

    def find_tests(self) -> list[InputImage]:
        """The test images beside the labelled ones; none where there is an annotation file.

        Raises:
            CellSegError: images and id file do not match, or a name is not UTF-8.
        """
        tests = find_test_images(self.root) if self.annotation_file is None else []
        refuse_other_than_utf8(test.path for test in tests)
        return tests

    def groups(self) -> dict[str, str]:
        """Image id -> group, such as the patient, for images that have one."""
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
    """Finds the images to convert or to check, without reading one.

    Args:
        root: the folder of images and labels.
        options: the options of the conversion.
        workers: processes.
        scheduler: a Dask scheduler to run on instead, ``tcp://HOST:PORT``.
        annotation_format: see :func:`cellseg_d2.annotations.readers.find_labelled`.
        annotation_file: see the same function.

    Raises:
        CellSegError: bad options, no labelled image, or class names that do not fit the classes.
    """
    options.check()
    if workers < 1:
        raise CellSegError(f"workers must be at least 1, not {workers}")
    if scheduler is not None:  # its workers may run in another folder
        root, annotation_file = root.absolute(), annotation_file and annotation_file.absolute()
    found = find_labelled(root, annotation_format, annotation_file)
    merged = [options.merge_classes] if options.merge_classes else []
    names = merged or _class_names(found.class_names, options.class_names)
    in_flight = 2 * workers if scheduler is None else 2 * len(found.images)
    return ConversionInput(root, found.images, names, annotation_file, in_flight, found.notes)


def below(root: Path, lines: Iterable[str]) -> list[str]:
    """Messages that begin with a path, with this path made relative to ``root``, however the user typed it.

    An absolute path that a library quotes later in a message is made relative too.
    """
    typed = f"{str(root).rstrip('/')}/"
    absolute = "|".join(re.escape(f"{str(path).rstrip('/')}/") for path in (root.absolute(), root.resolve()))
    return [re.sub(f"""(?<=['"])({absolute})""", "", line.removeprefix(typed)) for line in lines]


def _class_names(found: list[str], given: Sequence[str]) -> list[str]:
    """The names that the user gives to the classes, else those in the input."""
    if given and len(given) < len(found):
        raise CellSegError(f"{len(given)} class names are given, but there are {len(found)} classes; name all of them")
    moved = next((name for name, new in zip(found, given) if name != new and name in given), None)
    if moved is not None:  # names of an earlier model, say, in its order
        raise CellSegError(
            f"--class-names {' '.join(given)}: the classes of the input are {', '.join(found)}, in this order, and "
            f"{moved!r} would be called {given[found.index(moved)]!r}; give the names in this order, or none"
        )
    return list(given) or found


def run_in_order(
    executor: Executor, in_flight: int, function: Callable[[Item], Result], items: Sequence[Item], what: str | None
) -> list[Result]:
    """Runs one task per item and returns the results in order; shows progress under the name ``what`` unless None."""
    done = run_unordered(executor, function, items, in_flight)
    results = dict(done if what is None else track(done, len(items), what))
    return [results[number] for number in range(len(items))]


def read_sample(sample: LabelledImage, options: ConvertOptions, class_count: int) -> ImageLabels:
    """The image, as in :class:`CutSample`, and its label maps; blobs become cells where the options say so.

    Merged classes keep their label maps, so that cells of two classes that overlap stay two cells.

    Raises:
        CellSegError: a file cannot be read or does not fit the others.
    """
    read = sample.read(options.pixel_rule, options.max_pixels, class_count)
    layers = read.label_maps
    if options.merge_classes:
        layers = [replace(layer, categories=(1,)) for layer in layers]
    if options.split_blobs:
        layers = [layer if layer.crowd else replace(layer, labels=split_blobs(layer.labels)) for layer in layers]
    return replace(read, label_maps=layers)


def cut_sample(sample: LabelledImage, options: ConvertOptions, class_count: int) -> CutSample:
    """Reads a sample, annotates its tiles and measures it, without writing anything.

    Raises:
        CellSegError: as :func:`read_sample`.
    """
    read = read_sample(sample, options, class_count)
    image, cells = read.image, LayeredCells.of(read.label_maps)
    height, width = image.shape[:2]
    windows = tile_windows(height, width, options.tile_size, options.overlap)
    whole = annotate(cells, windows[0]) if len(windows) == 1 else None
    if whole is None:
        tiles = [(window, annotate(cells, window, options.min_area, options.min_visible)) for window in windows]
    else:  # no cell is cut, so the least area is all that a tile's annotations differ by
        tiles = [(windows[0], [cell for cell in whole if cell["area"] >= options.min_area])]
    statistics = measure_image(sample.id, image, cells, tiles, class_count, *read.stated)
    return CutSample(image, tiles, whole, statistics)
