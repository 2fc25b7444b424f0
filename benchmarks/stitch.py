"""Putting tiles together: time and memory by number of cells, and cells lost, doubled and fused, against SAHI."""

from __future__ import annotations

import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes import judge, real_cells, separate_cells, views
from benchmarks.sides import MAIN, SAHI, WITHOUT_SAHI, Outcome, run_side
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import Timing
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.inference.stitch import stitch

TILE, OVERLAP = 512, 0.25
FAULTS = ("objects", "lost", "doubled", "fused")
CLASS_NAMES = [f"class{number}" for number in range(1, 5)]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        repeats: timed runs of each side.
        counts: drawn cells of each scene.
        mosaics: images made of real cells, each in another order.
    """

    repeats: int = 3
    counts: tuple[int, ...] = (1000, 5000, 20_000)
    mosaics: int = 3


SHORT = Settings(repeats=1, counts=(1000, 5000), mosaics=1)
QUICK = Settings(repeats=1, counts=(40,), mosaics=1)


def report(data: Path, settings: Settings) -> str:
    """The benchmark's tables as Markdown.

    Args:
        data: input layout; its label maps make the mosaics.
        settings: how much is measured.
    """
    tables = [benchmark_merging(settings), benchmark_mosaics(data, settings.mosaics)]
    note = "" if SAHI.is_file() else f"{WITHOUT_SAHI}\n\n"
    return note + "\n".join(table.markdown() for table in tables)


def sides(ours: str, theirs: str) -> dict[str, tuple[Path, str]]:
    """Name of each side that can be run here, its Python and its work."""
    return {"this package": (MAIN, ours)} | ({"SAHI": (SAHI, theirs)} if SAHI.is_file() else {})


def benchmark_merging(settings: Settings) -> Table:
    """Time, memory and faults of putting together what an unerring detector sees of drawn cells."""
    both = sides("benchmarks.stitch:put_together", "benchmarks.with_sahi:merge")
    rows = []
    for count in settings.counts:
        scene = separate_cells(count)
        cells = scene.cells()
        runs: dict[str, list[Outcome]] = {side: [] for side in both}
        for _ in range(settings.repeats):
            for side, (python, work) in both.items():
                runs[side].append(run_side(python, work, cells, TILE, OVERLAP))
        timings = {side: Timing(tuple(run.value["seconds"] for run in own)) for side, own in runs.items()}
        for side, own in runs.items():
            memory = min(run.extra_megabytes for run in own)
            by_ours = ratio(timings[side].median, timings["this package"].median)
            found = own[-1].value
            faults = [str(value) for value in astuple(judge(scene, found["cells"]))]
            rows.append(
                [
                    *(f"{side}, {count}", str(found["predictions"]), *timing_cells(timings[side]), by_ours),
                    *(number(memory), *faults),
                ]
            )
    text = (
        f"Drawn cells that touch nowhere, in an image as dense as 20,000 in 8,192 x 8,192; tiles of {TILE} that share "
        f"{round(TILE * OVERLAP)} pixels, in each of which the detector sees the cells as they are, cut at its edge. "
        "Seconds are those of the merging alone: here `stitch`, in SAHI `GreedyNMMPostprocess` as "
        "`get_sliced_prediction` sets it up (IOS, 0.5). Memory is a fresh process's peak for the tiles' predictions "
        "and the merging, less imports and input. Ratios are of medians. Lost: no object has an IoU above a half with "
        "the cell; doubled: several objects lie mainly on it; fused: objects that hold over half of several cells."
    )
    columns = ["side, cells", "tiles' predictions", *TIMING_COLUMNS, "times this package", "MB", *FAULTS]
    return Table("Merging", text, columns, rows)


def put_together(cells: CellInstances, tile_size: int, overlap: float) -> dict[str, Any]:
    """This package's side of :func:`benchmark_merging`; see :func:`benchmarks.with_sahi.merge`."""
    tiles = list(TileGrid(*cells.image_size, tile_size, overlap))
    pieces = list(zip(tiles, views(cells, [tile.window for tile in tiles])))
    started = time.perf_counter()
    result, _ = stitch(pieces, cells.image_size)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "predictions": sum(len(view) for _, view in pieces), "cells": result}


def benchmark_mosaics(data: Path, mosaics: int) -> Table:
    """Faults of both sides with a Detectron2 model that knows the cells, on label maps pasted side by side."""
    from cellseg_d2.config import get_cfg

    options = {
        "MODEL.META_ARCHITECTURE": "GroundTruthRCNN",
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.ROI_HEADS.NUM_CLASSES": str(len(CLASS_NAMES)),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.5",
        "CELLSEG.CLASS_NAMES": str(CLASS_NAMES),
    }
    cfg = get_cfg("mask_rcnn_lite0_FPN", [text for option in options.items() for text in option])
    both = sides("benchmarks.predict:predict", "benchmarks.with_sahi:predict")
    faults = {side: np.zeros(len(FAULTS), np.int64) for side in both}
    megabytes = dict.fromkeys(both, 0.0)
    cells, sizes = 0, []
    with tempfile.TemporaryDirectory() as folder:
        image, config = Path(folder) / "image.npy", Path(folder) / "config.yaml"
        config.write_text(cfg.dump(), encoding="utf-8")
        for seed in range(mosaics):
            scene = real_cells(data, seed)
            np.save(image, scene.coded())
            cells += len(scene)
            sizes.append(" x ".join(map(str, scene.size)))
            for side, (python, work) in both.items():
                outcome = run_side(python, work, image, config, "", 0.5, TILE, OVERLAP, "cpu")
                faults[side] += astuple(judge(scene, outcome.value["cells"]))
                megabytes[side] = max(megabytes[side], outcome.extra_megabytes)
    rows = [[side, *map(str, faults[side]), number(megabytes[side])] for side in both]
    text = (
        f"The label maps of the data pasted side by side, {mosaics} times in another order ({', '.join(sizes)} "
        f"pixels), {cells} cells in all; tiles of {TILE} that share {round(TILE * OVERLAP)} pixels. Both sides run one "
        "Detectron2 model, which knows the cells and gives them as boxes and small masks: `WholeImagePredictor` and "
        "`get_sliced_prediction`. MB is the highest peak of a fresh process, less imports; the rest is as above."
    )
    return Table("Mosaics of real cells", text, ["side", *FAULTS, "MB"], rows)
