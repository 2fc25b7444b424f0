"""What conversion costs: against the usual loop over cells, against its floor, and against the number of cells."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from benchmarks.formats import compare_formats
from benchmarks.synthetic import dense_cells, write_sample
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import peak_memory, time_in_turn
from cellseg_d2.annotations.class_tiffs import find_samples
from cellseg_d2.cells.coco import Record, annotate
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.tiling import tile_windows
from cellseg_d2.conversion.convert import convert, write_image
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.images.listing import find_test_images
from cellseg_d2.images.tiff import read_image

CLASSES = 4
SEED = 42


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        side: side length of the drawn images in pixels.
        dense: cells of the dense images.
        images: how many of these.
        growth: numbers of cells that one image size is converted with.
        repeats: timed runs of each work.
        format_tiles: tiles of the data that the file formats are compared on.
        cpu_time: measure the CPU's time, not the clock's: for a machine that others keep busy.
    """

    side: int = 2000
    dense: int = 800
    images: int = 5
    growth: tuple[int, ...] = (100, 1000, 4000)
    repeats: int = 5
    format_tiles: int = 60
    cpu_time: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """What tells the seconds."""
        return time.process_time if self.cpu_time else time.perf_counter


SHORT = Sizes(images=2, repeats=3, format_tiles=8)
"""Ratios that mean something, in a minute."""

QUICK = Sizes(side=200, dense=24, images=1, growth=(8, 16), repeats=1, format_tiles=3)
"""For a test of the benchmark itself; its figures mean nothing."""


def benchmark_convert(data: Path, sizes: Sizes = Sizes()) -> list[Table]:
    """Measures conversion with one worker.

    Args:
        data: a folder in the input layout, see :mod:`cellseg_d2.annotations.class_tiffs`.
        sizes: how much is measured.

    Raises:
        CellSegError: ``data`` cannot be converted.
    """
    find_samples(data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = folder / "dense"
        for place in range(sizes.images):
            radius = (sizes.side / 110, sizes.side / 65)
            write_sample(dense, f"dense{place}", *dense_cells(sizes.side, sizes.dense, CLASSES, radius, SEED + place))
        inputs = {"data": data, f"{sizes.images} dense images": dense}
        return [
            compare_annotation(sizes),
            compare_with_floor(inputs, folder / "out", sizes),
            measure_growth(folder, sizes),
            *compare_formats(data, dense, folder / "formats", sizes.format_tiles, sizes.repeats, sizes.clock),
        ]


def compare_annotation(sizes: Sizes) -> Table:
    """The annotations of label maps in memory: all of a tile's cells at once against one full frame a cell."""
    _, maps = dense_cells(sizes.side, sizes.dense, CLASSES, (sizes.side / 110, sizes.side / 65), SEED)
    works: dict[str, Callable[[], object]] = {
        "this converter": partial(annotate_tiles, maps),
        "one full frame a cell": partial(annotate_by_loop, maps),
    }
    timings = time_in_turn(works, sizes.repeats, clock=sizes.clock)
    base = timings["this converter"].median
    rows = [[name, *timing_cells(timing), ratio(timing.median, base)] for name, timing in timings.items()]
    text = (
        f"One image of {sizes.side} x {sizes.side} with {sizes.dense} cells in {CLASSES} classes, label maps in "
        "memory: annotations of all tiles with `--min-area` and `--min-visible`, against `mask == id` and "
        "`pycocotools.mask.encode` of the full frame for each id, untiled."
    )
    return Table("Annotation work", text, ["work", *TIMING_COLUMNS, "times this converter"], rows)


def annotate_tiles(maps: Sequence[NDArray[np.int32]]) -> list[list[Record]]:
    """What the converter does between reading an image's label maps and writing its tiles."""
    options = ConvertOptions()
    layers = [LabelMap((category,), labels) for category, labels in enumerate(maps, start=1)]
    height, width = maps[0].shape
    windows = tile_windows(height, width, options.tile_size, options.overlap)
    return [annotate(layers, window, options.min_area, options.min_visible) for window in windows]


def annotate_by_loop(maps: Sequence[NDArray[np.int32]]) -> list[Record]:
    """What scripts for this data do."""
    annotations = []
    for category, labels in enumerate(maps, start=1):
        for cell in np.unique(labels):
            if cell:
                rle = mask_util.encode(np.asfortranarray(labels == cell, dtype=np.uint8))
                area, bbox = int(mask_util.area(rle)), mask_util.toBbox(rle).tolist()
                rle["counts"] = rle["counts"].decode("ascii")
                annotations.append({"category_id": category, "bbox": bbox, "area": area, "segmentation": rle})
    return annotations


def compare_with_floor(inputs: dict[str, Path], output: Path, sizes: Sizes) -> Table:
    """Whole conversions, against reading the same files and writing the same images."""
    rows = []
    for name, root in inputs.items():
        convert_again(root, output)
        wanted = images_of(output)
        works = {
            "this converter": partial(in_new_folder, output.parent, convert_again, root),
            "floor": partial(in_new_folder, output.parent, write_floor, root, wanted),
        }
        timings = time_in_turn(works, sizes.repeats, clock=sizes.clock)
        base = timings["floor"].median
        rows += [[f"{name}: {work}", *timing_cells(took), ratio(took.median, base)] for work, took in timings.items()]
    text = (
        "One worker, default options. The floor decodes each of the same TIFFs once and writes the same images (tiles, "
        "whole validation images and test images, byte for byte), without annotations."
    )
    return Table("Whole conversion", text, ["input: work", *TIMING_COLUMNS, "times the floor"], rows)


def in_new_folder(parent: Path, work: Callable[..., object], *args: Any) -> None:
    """Gives a work an empty folder as its last argument: to remove what an earlier run wrote is no part of it."""
    work(*args, Path(tempfile.mkdtemp(dir=parent)))


def convert_again(root: Path, output: Path) -> None:
    """Converts with one worker, over what an earlier run left."""
    convert(root, output, ConvertOptions(), overwrite=True)


Wanted = dict[str, list[tuple[str, tuple[int, int, int, int]]]]
"""Image files to write by their source: path within the dataset and window."""


def images_of(dataset: Path) -> Wanted:
    """All image files of a converted dataset."""
    wanted: Wanted = {}
    for path in sorted((dataset / "annotations").iterdir()):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for image in content["images"]:
            window = tuple(image.get("window", (0, 0, image["width"], image["height"])))
            wanted.setdefault(image["source"], []).append((image["file_name"], window))
    return wanted


def write_floor(root: Path, wanted: Wanted, output: Path) -> None:
    """Decodes every TIFF of an input once and writes the images that are wanted of it."""
    sources = [(sample.id, sample.image, list(sample.labels.values())) for sample in find_samples(root)[0]]
    sources += [(test.path.name, test.path, []) for test in find_test_images(root)]
    for part in ("train", "val", "val_whole", "test"):
        (output / part).mkdir(parents=True, exist_ok=True)
    for source, path, label_files in sources:
        image = read_image(path)
        for label_file in label_files:
            tifffile.imread(label_file)
        for name, (x0, y0, x1, y1) in wanted.get(source, []):
            write_image(output / name, image[y0:y1, x0:x1])


def measure_growth(folder: Path, sizes: Sizes) -> Table:
    """Time and peak memory of one image by its number of cells."""
    radius = (max(sizes.side / 250, 3), max(sizes.side / 160, 5))  # or the quick form's cells would be under --min-area
    works, memory = {}, {}
    for compression in (None, "lzw"):
        for count in sizes.growth:
            name = f"{compression or 'uncompressed'}, {count}"
            root = folder / f"{compression}{count}"
            write_sample(root, "image", *dense_cells(sizes.side, count, CLASSES, radius, SEED), compression)
            works[name] = partial(in_new_folder, folder, convert_again, root)
            memory[name] = peak_memory(in_new_folder, folder, convert_again, root)
    timings = time_in_turn(works, sizes.repeats, clock=sizes.clock)
    rows = []
    for place, (name, timing) in enumerate(timings.items()):
        first = list(timings)[place - place % len(sizes.growth)]
        peak, work = (number(value / 1e6) for value in (memory[name].peak, memory[name].peak - memory[name].before))
        slower, larger = ratio(timing.median, timings[first].median), ratio(memory[name].peak, memory[first].peak)
        rows.append([name, *timing_cells(timing), slower, peak, work, larger])
    text = (
        f"One image of {sizes.side} x {sizes.side} with cells of one size in {CLASSES} classes, one worker. Decoding a "
        "label TIFF takes the same time for any content if it is uncompressed, and longer for more cells if it is LZW. "
        "Memory is the resident peak of a fresh process that converts once, and what of it was not there after imports."
    )
    columns = [
        "label TIFFs, cells",
        *TIMING_COLUMNS,
        "times the first",
        "peak MB",
        "for the work MB",
        "times the first",
    ]
    return Table("Number of cells", text, columns, rows)


def report(data: Path, sizes: Sizes = Sizes()) -> str:
    """All tables as Markdown."""
    tables = benchmark_convert(data, sizes)
    seconds = "of the CPU" if sizes.cpu_time else "of the clock"
    note = f"Timed runs of each work: {sizes.repeats}, in turn; ratios are of medians, seconds {seconds}."
    return "\n".join([note, "", *(table.markdown() for table in tables)])
