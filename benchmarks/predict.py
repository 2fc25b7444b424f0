"""Whole images against SAHI with the same Detectron2 model, and the memory of a very large one."""

from __future__ import annotations

import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

import benchmarks.stand_in  # noqa: F401  (registers the models that configs name)
import cellseg_d2
from benchmarks.scenes import SEED, judge, real_cells, real_image, separate_cells
from benchmarks.sides import MAIN, SAHI, WITHOUT_SAHI, Outcome, run_side
from benchmarks.stitch import CLASS_NAMES, FAULTS, OVERLAP, TILE, sides
from benchmarks.table import TIMING_COLUMNS, Table, number, ratio, timing_cells
from benchmarks.timing import Timing
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.config import cfg_from_text, get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.record import RESULTS_FILE
from cellseg_d2.files import read_json
from cellseg_d2.images.listing import InputImage
from cellseg_d2.images.regions import WholeImage
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.weights.checkpoint import CellCheckpointer, WeightsFile

CONFIG = "mask_rcnn_lite0_FPN"
THRESHOLD = 0.1
"""Of scores: the lowest with which SAHI merges as it does by default; below it changes to suppressing boxes."""

SHOWN = {
    False: "Squares of test images, pasted together:",
    True: "Label maps, pasted together: the network runs on each tile, and what its untrained heads find is replaced "
    "by the cells, the time for which is taken out;",
}
"""What the image is, by whether the model knows the cells."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        repeats: timed runs of each side.
        side: the image's side length in pixels.
        large_cells: in the image of the memory's measurement.
        detections: in a tile, of the network with untrained heads, which finds as many as it may: about as many as
            there are cells.
    """

    repeats: int = 3
    side: int = 2048
    large_cells: int = 20_000
    detections: int = 100


SHORT = Settings(repeats=1, side=1024)
QUICK = Settings(repeats=1, side=300, large_cells=40, detections=20)


def report(data: Path, weights: str, device: str, large: bool, settings: Settings) -> str:
    """The benchmark's tables as Markdown.

    Args:
        data: input layout, whose test images make the image, or its label maps where there are no weights.
        weights: a checkpoint; where empty, the laptop model with untrained heads, which sees all cells as they are.
        device: ``cpu`` or ``cuda``.
        large: also measure the memory of an image with 20,000 cells.
        settings: how much is measured.

    Raises:
        CellSegError: ``large`` with ``weights``.
    """
    if large and weights:
        raise CellSegError("--large is measured with cells that are known: leave --weights out")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = write_model(folder, weights, device, settings.detections)
        tables = [*benchmark_predict(folder, cfg, data, settings)]
        if large:
            tables.append(benchmark_large(folder, cfg, settings.large_cells))
    note = "" if SAHI.is_file() else f"{WITHOUT_SAHI}\n\n"
    return note + "\n".join(table.markdown() for table in tables)


def write_model(folder: Path, weights: str, device: str, detections: int) -> CfgNode:
    """Puts ``config.yaml`` and ``model.pth`` into a folder, as both sides read them, and gives the config back."""
    cellseg_d2.setup()
    torch.manual_seed(SEED)
    if weights:
        cfg = WeightsFile.read(weights).cfg()
        cfg.MODEL.WEIGHTS = weights
    else:
        options = {
            "MODEL.ROI_HEADS.NUM_CLASSES": str(len(CLASS_NAMES)),
            "CELLSEG.CLASS_NAMES": str(CLASS_NAMES),
            "TEST.DETECTIONS_PER_IMAGE": str(detections),
            "MODEL.META_ARCHITECTURE": "NetworkAndTruth",
        }
        cfg = get_cfg(CONFIG, [text for option in options.items() for text in option])
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = THRESHOLD
    cfg.CELLSEG.INFERENCE.TILE_SIZE, cfg.CELLSEG.INFERENCE.OVERLAP = TILE, OVERLAP
    model = build_model(cfg)
    network = getattr(model, "network", model)
    CellCheckpointer(network, cfg, strict=bool(weights)).load(cfg.MODEL.WEIGHTS)
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return cfg


def benchmark_predict(folder: Path, cfg: CfgNode, data: Path, settings: Settings) -> list[Table]:
    """Seconds a megapixel and memory of both sides, and where this package's go."""
    both = sides("benchmarks.predict:predict", "benchmarks.with_sahi:predict")
    image = folder / "image.npy"
    knows = cfg.MODEL.META_ARCHITECTURE == "NetworkAndTruth"
    pixels = real_cells(data, SEED).middle(settings.side).coded() if knows else real_image(data, settings.side)
    np.save(image, pixels)
    args = (image, folder / "config.yaml", cfg.MODEL.WEIGHTS, THRESHOLD, TILE, OVERLAP, cfg.MODEL.DEVICE)
    runs: dict[str, list[Outcome]] = {side: [] for side in both}
    for _ in range(settings.repeats):
        for side, (python, work) in both.items():
            runs[side].append(run_side(python, work, *args))
    height, width = pixels.shape[:2]
    megapixels = height * width / 1e6
    timings = {side: Timing(tuple(run.value["seconds"] / megapixels for run in own)) for side, own in runs.items()}
    base = timings["this package"].median
    rows = []
    for side, own in runs.items():
        merging = np.median([run.value["merging"] for run in own])
        rows.append(
            [
                *(side, *timing_cells(timings[side]), ratio(timings[side].median, base), number(merging)),
                *(str(len(own[-1].value["cells"])), number(min(run.memory.peak for run in own) / 1e6)),
            ]
        )
    text = (
        f"{SHOWN[knows]} {height} x {width} pixels in tiles of {TILE} that share {round(TILE * OVERLAP)}, with the "
        f"same network and score threshold ({THRESHOLD}) on both sides: `WholeImagePredictor` and "
        "`get_sliced_prediction` with its defaults, but without its pass over the whole image. Seconds are a "
        "megapixel's, but for those of the merging, which are the image's; MB the peak of a fresh process. Ratios are "
        "of medians."
    )
    columns = ["side", *TIMING_COLUMNS, "times this package", "merging s", "cells", "MB"]
    return [Table("Prediction", text, columns, rows), _shares(runs["this package"])]


def _shares(runs: list[Outcome]) -> Table:
    """Where this package's seconds go, as medians of runs."""
    shares = {
        name: float(np.median([run.value[key] / run.value["seconds"] for run in runs]))
        for name, key in {"the model's calls": "model", "putting together": "merging"}.items()
    }
    shares["pasting, suppression, reading"] = 1 - sum(shares.values())
    rows = [[name, f"{100 * share:.1f}"] for name, share in shares.items()]
    return Table("Where this package's time goes", "Shares of the seconds above.", ["work", "%"], rows)


def predict(
    image: Path, config: Path, weights: str, threshold: float, tile_size: int, overlap: float, device: str
) -> dict[str, Any]:
    """This package's side; see :func:`benchmarks.with_sahi.predict`.

    Returns:
        As there, and of the ``seconds`` those inside the ``model``'s calls.
    """
    cfg = cfg_from_text(config.read_text(encoding="utf-8"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = weights, device, threshold
    cfg.CELLSEG.INFERENCE.TILE_SIZE, cfg.CELLSEG.INFERENCE.OVERLAP = tile_size, overlap
    pixels = np.load(image)
    predictor = WholeImagePredictor.from_cfg(cfg)
    predictor.predict(pixels[:tile_size, :tile_size])  # warms up
    standing_in = getattr(predictor.model, "standing_in", 0.0)
    model = Stopwatch(getattr(predictor.model, "network", predictor.model))
    started = time.perf_counter()
    pieces = list(predictor.pieces(WholeImage(pixels)))
    merging = time.perf_counter()
    cells = predictor.join(pieces, pixels.shape[:2])
    ended = time.perf_counter()
    seconds = ended - started - (getattr(predictor.model, "standing_in", 0.0) - standing_in)
    return {"seconds": seconds, "merging": ended - merging, "model": model.seconds, "cells": cells}


class Stopwatch:
    """Sums the seconds that a model's ``inference`` takes, from when it is made.

    Args:
        model: whose method is replaced by one that is timed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        self._inference = model.inference
        model.inference = self._timed

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = self._inference(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else the time would be counted where the result is first looked at
        self.seconds += time.perf_counter() - started
        return result


def benchmark_large(folder: Path, cfg: CfgNode, count: int) -> Table:
    """Memory and time of a large image from its file to the files of its cells."""
    scene = separate_cells(count)
    image, output = folder / "large.tif", folder / "large"
    tifffile.imwrite(image, scene.coded(), photometric="rgb", tile=(256, 256), compression="deflate")
    outcome = run_side(MAIN, "benchmarks.predict:predict_large", folder / "config.yaml", image, output)
    results = read_json(output / RESULTS_FILE)
    found = CellInstances.from_rles(
        [result["segmentation"] for result in results], [result["category_id"] for result in results], scene.size
    )
    seconds = outcome.value["seconds"]
    graphics = number(outcome.value["graphics"] / 1e6) if cfg.MODEL.DEVICE == "cuda" else "-"
    row = [
        *(cfg.MODEL.DEVICE, number(outcome.memory.peak / 1e6), graphics, number(seconds)),
        *(number(seconds / scene.labels.size * 1e6), f"{100 * outcome.value['model'] / seconds:.1f}"),
        *map(str, astuple(judge(scene, found))),
    ]
    height, width = scene.size
    text = (
        f"A tiled TIFF of {height} x {width} with {count} drawn cells, predicted as `tools/predict.py` does, and "
        "written as COCO results, GeoJSON and label maps. The network runs on each tile; what it finds is replaced by "
        "the cells, so that there are so many. MB is the resident peak of the process, all included, and GPU MB the "
        "peak of what torch took there."
    )
    columns = ["device", "MB", "GPU MB", "s", "s / megapixel", "in the model %", *FAULTS]
    return Table("A large image from file to files", text, columns, [row])


def predict_large(config: Path, image: Path, output: Path) -> dict[str, float]:
    """What the fresh process of :func:`benchmark_large` runs."""
    cfg = cfg_from_text(config.read_text(encoding="utf-8"))
    predictor = WholeImagePredictor.from_cfg(cfg)
    network = Stopwatch(predictor.model.network)
    started = time.perf_counter()
    predict_images(predictor, [InputImage(1, image)], Output(output, ("coco", "geojson", "labels")))
    seconds = time.perf_counter() - started
    graphics = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"seconds": seconds, "model": network.seconds, "graphics": float(graphics)}
