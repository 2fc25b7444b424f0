"""What the metrics of cells cost: by the number of cells on the same pixels, and against pycocotools' AP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluate import CLASSES, SEED, SIDE, draw, score_with_pycocotools
from benchmarks.synthetic import dense_cells
from benchmarks.table import TIMING_COLUMNS, Table, ratio, timing_cells
from benchmarks.timing import time_in_turn
from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.rle import Rle, column_runs
from cellseg_d2.evaluation.cell_metrics import CellMetrics, Cells, flat_overlaps, summarise, tally
from cellseg_d2.evaluation.coco_cells import class_names, image_cells

RADIUS = (8.0, 16.0)
"""Of the cells in pixels, at the largest of the counts; fewer are larger, so that they cover as many pixels."""


def report(
    repeats: int = 20, counts: tuple[int, ...] = (100, 500, 1000, 2000), images: int = 2, cells: int = 800
) -> str:
    """The benchmark's tables as Markdown."""
    growth = benchmark_growth(repeats, counts)
    return f"{growth.markdown()}\n{benchmark_against_ap(max(1, repeats // 6), images, cells).markdown()}"


def benchmark_growth(repeats: int, counts: tuple[int, ...]) -> Table:
    """Times all metrics of one image by its number of cells.

    Three works each: from decoded masks; the same when the very same pixels are labelled as the least number of cells,
    which is what the pixels cost by themselves; and with the decoding of RLEs, which is a part of reading.

    Args:
        repeats: timed runs of each.
        counts: numbers of cells, ascending.
    """
    least = counts[0]
    pixels = f"the same pixels in {least} cells"
    works: dict[str, Callable[[], object]] = {}
    for count in counts:
        maps = _draw(count, np.sqrt(counts[-1] / count))
        merged = [np.where(labels > 0, (labels - 1) % least + 1, 0) for labels in maps]
        encoded, few = ([column_runs(labels)[1].rles() for labels in pair] for pair in (maps, merged))
        works[f"metrics, {count}"] = partial(_measure_decoded, *_decode(*encoded))
        works[f"{pixels}, {count}"] = partial(_measure_decoded, *_decode(*few))
        works[f"metrics and RLE decoding, {count}"] = partial(_measure_encoded, *encoded)
    timings = time_in_turn(works, repeats)
    rows = []
    for name, timing in timings.items():
        work, cells = name.split(", ")
        first, own = timings[f"{work}, {least}"].best, timings[f"{pixels}, {cells}"].best
        rows.append([name, *timing_cells(timing), ratio(timing.best, first), ratio(timing.best, own)])
    text = (
        f"All metrics of one image of {SIDE} x {SIDE}, whose cells cover the same share of it whatever their number, "
        f"and as many predictions. Ratios are of best runs: to {least} cells, and to the same pixels in {least} cells."
    )
    return Table("Cell metrics", text, ["work, cells", *TIMING_COLUMNS, "times the first", "times its pixels"], rows)


def benchmark_against_ap(repeats: int, images: int, cells: int) -> Table:
    """Times all metrics of drawn images and pycocotools' mask AP of the same ones, both from RLEs in memory.

    Args:
        repeats: timed runs of each.
        images: how many.
        cells: cells per image; there are a quarter more detections.
    """
    detections = cells + cells // 4
    truth, results = draw(images, cells, detections)
    ours, theirs = partial(_measure_coco, truth, results), partial(score_with_pycocotools, truth, results, detections)
    timings = time_in_turn({"these metrics": ours, "pycocotools' AP": theirs}, repeats, warm_up=False)
    base = timings["these metrics"].median
    rows = [[name, *timing_cells(timing), ratio(timing.median, base)] for name, timing in timings.items()]
    text = (
        f"{images} images of {SIDE} x {SIDE} with {cells} cells in {CLASSES} classes and {detections} detections each, "
        "without reading JSON. Ratios are of medians."
    )
    return Table("Cell metrics and AP", text, ["work", *TIMING_COLUMNS, "times these metrics"], rows)


def _draw(count: int, scale: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Cells, and the same two pixels to the right as predictions."""
    low, high = RADIUS
    _, (labels,) = dense_cells(SIDE, count, 1, (low * scale, high * scale), SEED)
    return labels, np.roll(labels, 2, 1)


def _decode(truth: list[Rle], found: list[Rle]) -> tuple[Cells, Cells]:
    size = (SIDE, SIDE)
    scores = np.random.default_rng(SEED).random(len(found))
    return (
        Cells.from_rles(truth, size, np.arange(len(truth)) % CLASSES),
        Cells.from_rles(found, size, np.arange(len(found)) % CLASSES, scores),
    )


def _measure_decoded(truth: Cells, found: Cells) -> CellMetrics:
    return summarise([tally(flat_overlaps(truth, found), CLASSES)], [str(number) for number in range(CLASSES)])


def _measure_encoded(truth: list[Rle], found: list[Rle]) -> CellMetrics:
    return _measure_decoded(*_decode(truth, found))


def _measure_coco(truth: Record, results: list[Record]) -> CellMetrics:
    names = class_names(truth)
    images = image_cells(truth, results)
    return summarise([tally(flat_overlaps(own.truth, own.predictions), len(names)) for own in images], names)
