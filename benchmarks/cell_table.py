"""What measuring cells for a table costs: all of an image at once, against scikit-image's regionprops cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops

from benchmarks.table import TIMING_COLUMNS, Table, ratio, timing_cells
from benchmarks.timing import time_in_turn
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.measures import shapes

SEED = 42
STEP = 25
"""Pixels from one cell to the next; cells are ellipses of 10 to 22 pixels across."""


def report(repeats: int = 3, counts: tuple[int, ...] = (700, 7_000, 70_000), largest_one_by_one: int = 7_000) -> str:
    """The benchmark's table as Markdown.

    Args:
        repeats: timed runs of each.
        counts: numbers of cells, ascending.
        largest_one_by_one: above this number cells are not measured one by one, which takes minutes.
    """
    drawn = {count: draw(count) for count in counts}
    works: dict[str, Callable[[], object]] = {}
    for count, (cells, image) in drawn.items():
        works[f"all at once, {count}"] = partial(shapes, cells, image)
        if count <= largest_one_by_one:
            works[f"one by one, {count}"] = partial(measure_one_by_one, cells, image)
    timings = time_in_turn(works, repeats)
    rows = []
    for name, timing in timings.items():
        way, number = name.split(", ")
        per_cell = timing.best / int(number)
        first = timings[f"{way}, {counts[0]}"].best / counts[0]
        ours = timings[f"all at once, {number}"].best
        rows.append([name, *timing_cells(timing), ratio(per_cell, first), ratio(timing.best, ours)])
    text = (
        "Area, centroid, perimeter, eccentricity, solidity and mean intensities of an image's cells. Ratios are of "
        f"best runs: per cell to {counts[0]} cells, and to all at once."
    )
    columns = ["way, cells", *TIMING_COLUMNS, "per cell, times its first", "times all at once"]
    return Table("Tables of cells", text, columns, rows).markdown()


def draw(count: int) -> tuple[CellInstances, NDArray[np.uint8]]:
    """Ellipses on a grid, and an image of noise that holds them."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:STEP, :STEP] - STEP // 2
    columns = int(np.ceil(np.sqrt(count)))
    masks = []
    for long, short, turn in zip(*rng.uniform(5, 11, (2, count)), rng.uniform(0, np.pi, count)):
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        masks.append((along / long) ** 2 + (across / short) ** 2 <= 1)
    numbers = np.arange(count)
    origins = STEP * np.stack([numbers % columns, numbers // columns], axis=1)
    size = (STEP * columns, STEP * columns)
    scores, classes = np.ones(count, np.float32), np.zeros(count, np.int64)
    cells = CellInstances(size, np.zeros((count, 4), np.float32), scores, classes, masks, origins).trimmed()
    return cells, rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def measure_one_by_one(cells: CellInstances, image: NDArray[np.uint8]) -> list[list[float]]:
    """The same measures, as anybody would write it."""
    found = []
    for mask, (x, y) in zip(cells.masks, cells.origins.tolist()):
        part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
        (region,) = regionprops(mask.view(np.uint8), part)  # type: ignore[no-untyped-call]
        shape = [region.area, *region.centroid, region.perimeter, region.eccentricity, region.solidity]
        found.append([*shape, *region.intensity_mean])
    return found
