"""A whole slide from its file to the files of its cells: memory, and where the time goes that is not the model's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from detectron2.config import CfgNode
from numpy.typing import NDArray
from scipy.spatial import KDTree

import benchmarks.stand_in  # noqa: F401  (registers the model that the config names)
from benchmarks.scenes import SEED
from benchmarks.sides import MAIN, run_side
from benchmarks.stages import Stages
from benchmarks.synthetic import dense_cells
from benchmarks.table import Table, number
from cellseg_d2.cells.arrays import Floats
from cellseg_d2.cells.rle import column_runs
from cellseg_d2.config import cfg_from_text, get_cfg
from cellseg_d2.export.formats import WRITERS
from cellseg_d2.export.record import RESULTS_FILE
from cellseg_d2.files import read_json
from cellseg_d2.images.listing import InputImage
from cellseg_d2.images.regions import BlockImage
from cellseg_d2.inference import folder, predictor
from cellseg_d2.inference.detect import Detector
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.predictor import WholeImagePredictor

REGION = 1024
"""The slide is made of squares of this side, each of them drawn cells or empty glass."""

DENSITY = 2500
"""Pixels of tissue per cell."""

DRAWN = 8
"""Squares of cells that differ; the slide repeats them."""

TISSUE = (0.42, 0.30)
"""Half axes of the ellipse of tissue, as shares of the slide's side: 40 % of its area."""

GLASS = 242
TILE = 256
NEAR = 4
"""A cell is found if the middle of a result's box lies within so many pixels of its own."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        side: the slide's side in pixels.
        formats: what is written.
    """

    side: int = 40_000
    formats: tuple[str, ...] = ("coco", "geojson", "csv", "labels", "overlay")


SHORT = Settings(side=10_240)
"""A sixteenth of the slide."""

QUICK = Settings(side=4800)
"""Large enough to be read by windows."""


def report(settings: Settings) -> str:
    """The benchmark's tables as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        image, output, config = Path(name, "slide.tif"), Path(name, "results"), Path(name, "config.yaml")
        drawn = write_slide(image, settings.side)
        config.write_text(model_config().dump(), encoding="utf-8")
        outcome = run_side(MAIN, "benchmarks.slide:predict_slide", config, image, output, settings.formats)
        megabytes = image.stat().st_size / 1e6
        found = middles(output / RESULTS_FILE)
    value, gigapixels = outcome.value, settings.side**2 / 1e9
    faults = compare(drawn, found)
    besides = value["all"] - value["stages"].get("model", 0.0)
    text = (
        f"A drawn slide of {settings.side:,} x {settings.side:,} px, a tiled JPEG TIFF of {number(megabytes)} MB with "
        f"{len(drawn):,} cells, one per {DENSITY:,} px of tissue, and glass around it. It is predicted as `predict` "
        f"does, with a model that only looks for dark pixels, and written as {', '.join(settings.formats)}. MB is the "
        "resident peak of the process, all included. Seconds per gigapixel are the processor's, those from start to "
        "end a clock's."
    )
    row = [
        *(number(outcome.memory.peak / 1e6), number(besides / gigapixels), number(value["wall"])),
        *map(str, (len(found), faults.lost, faults.doubled)),
    ]
    columns = ["peak MB", "s / gigapixel but for the model", "s from start to end", "found", "lost", "doubled"]
    stages = {
        **value["stages"],
        "other threads, and the rest": value["all"] - sum(value["stages"].values()),
    }
    rows = [
        [name, number(seconds / gigapixels), f"{100 * seconds / value['all']:.1f}"]
        for name, seconds in (*stages.items(), ("all", value["all"]))
    ]
    split = (
        "Seconds of the processor in all threads, so that other work on the machine and the overlap of stages count "
        "little."
    )
    tables = [
        Table("A whole slide", text, ["slide", *columns], [[f"{settings.side:,} px", *row]]),
        Table("Where the time goes", split, ["stage", "s / gigapixel", "%"], rows),
    ]
    return "\n".join(table.markdown() for table in tables)


def model_config() -> CfgNode:
    """The config of the stand-in model."""
    options = {
        "MODEL.META_ARCHITECTURE": "DarkCells",
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.ROI_HEADS.NUM_CLASSES": "1",
        "CELLSEG.CLASS_NAMES": "['cell']",
    }
    return get_cfg("mask_rcnn_lite0_FPN", [text for option in options.items() for text in option])


def write_slide(path: Path, side: int) -> Floats:
    """Writes a slide tile by tile.

    Returns:
        (N, 2) the middles (x, y) of the boxes of its cells.
    """
    rng = np.random.default_rng(SEED)
    glass = rng.normal(GLASS, 2, (REGION, REGION, 1)).round().astype(np.uint8).repeat(3, axis=2)
    squares = [dense_cells(REGION, REGION**2 // DENSITY, 1, (8.0, 14.0), SEED + place) for place in range(DRAWN)]
    across = -(-side // REGION)
    kinds = {(row, column): _kind(row, column, side) for row in range(across) for column in range(across)}

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for y in range(0, side, TILE):
            for x in range(0, side, TILE):
                kind = kinds[y // REGION, x // REGION]
                pixels = glass if kind is None else squares[kind][0]
                top, left = y % REGION, x % REGION
                height, width = min(TILE, side - y), min(TILE, side - x)
                yield np.ascontiguousarray(pixels[top : top + height, left : left + width])

    options: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 90}, "maxworkers": 1}
    options |= {"tile": (TILE, TILE), "photometric": "rgb", "bigtiff": True}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, **options)
    in_squares = [_middles(labels) for _, (labels,) in squares]
    placed = [
        in_squares[kind] + np.array([column, row]) * REGION for (row, column), kind in kinds.items() if kind is not None
    ]
    return np.concatenate([np.zeros((0, 2)), *placed])


def _kind(row: int, column: int, side: int) -> int | None:
    """Which of the drawn squares lies there; None for glass."""
    x, y = ((place + 0.5) * REGION / side - 0.5 for place in (column, row))
    inside = (max(row, column) + 1) * REGION <= side and (x / TISSUE[0]) ** 2 + (y / TISSUE[1]) ** 2 <= 1
    return (7 * row + 3 * column) % DRAWN if inside else None


def _middles(labels: NDArray[np.int32]) -> Floats:
    boxes = column_runs(labels)[1].boxes
    middles: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middles


def middles(results: Path) -> Floats:
    """(M, 2) the middles (x, y) of the boxes of COCO results."""
    boxes = np.array([result["bbox"] for result in read_json(results)], np.float64).reshape(-1, 4)
    return boxes[:, :2] + boxes[:, 2:] / 2


@dataclass(frozen=True)
class Faults:
    """Drawn cells that no result shows, and those that several show."""

    lost: int
    doubled: int


def compare(drawn: Floats, found: Floats) -> Faults:
    """Counts the cells that were lost and doubled, by the middles of their boxes."""
    shown = KDTree(found).query_ball_point(drawn, NEAR, return_length=True) if len(found) else np.zeros(len(drawn), int)
    return Faults(int(np.count_nonzero(shown == 0)), int(np.count_nonzero(shown > 1)))


def predict_slide(config: Path, image: Path, output: Path, formats: tuple[str, ...]) -> dict[str, Any]:
    """What the fresh process of :func:`report` runs; its stages are timed there."""
    stages = Stages()
    stages.time(BlockImage, "read", "reading")
    stages.time(predictor, "to_cell_instances", "masks to pixels")
    stages.time(Detector, "__call__", "tiles to the model and back")
    stages.time(predictor, "stitch", "putting together")
    stages.time(WholeImagePredictor, "confident", "choosing the cells that are shown")
    stages.time(folder, "to_results", "COCO records")
    stages.time(folder, "check_results", "reading the results back")
    stages.time(folder, "_write", "part of the image")
    stages.time(folder, "_finish", "results file")
    for name in formats:
        if name in WRITERS:
            WRITERS[name] = stages.timed(WRITERS[name], f"writing {name}")
    model = WholeImagePredictor.from_cfg(cfg_from_text(config.read_text(encoding="utf-8")))
    stages.time(model.model, "inference", "model")
    started, processor = time.perf_counter(), time.process_time()
    predict_images(model, [InputImage(1, image)], Output(output, formats))
    whole, wall = time.process_time() - processor, time.perf_counter() - started
    return {"stages": stages.seconds, "all": whole, "wall": wall}
