"""This package's two sides: ``cellseg-d2 train`` from ImageNet weights, and from the published weights ``nuclei``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.accuracy.data import DATASET, DATASETS
from benchmarks.accuracy.job import SEED, WAYS, Job, Training, predict, processor_seconds, write_result
from benchmarks.accuracy.thresholds import PLAIN, best_least_score, label_map_finder
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.weights.checkpoint import WeightsFile


@dataclass(frozen=True)
class Recipe:
    """A config and what of it is changed."""

    config: str
    keys: tuple[str, ...] = ()


RECIPES = {
    # the weights of the last step are used, which a rate that falls to zero makes as good as an average
    "imagenet": Recipe("nuclei", ("CELLSEG.EMA_DECAY", "0.0")),
    # one class, as nuclei has: nothing begins anew
    "nuclei": Recipe("finetune_nuclei", ("CELLSEG.SHAPE_CLASSIFIER", "False")),
}

SHORT, LONGER = 20, 100
"""Iterations of the two trainings whose difference says what an iteration takes."""


class Run(NamedTuple):
    """Seconds that a training command took."""

    processor: float
    wall: float


def train(job: Job, folder: Path, iterations: int) -> Run:
    """Runs the real command, without validation.

    Raises:
        CellSegError: it failed.
    """
    recipe = RECIPES[job.side]
    warmup = min(get_cfg(recipe.config).SOLVER.WARMUP_ITERS, iterations // 4)
    keys: list[object] = ["CELLSEG.DATASET", DATASET, "OUTPUT_DIR", folder, "SEED", SEED, "MODEL.DEVICE", "cpu"]
    keys += ["SOLVER.MAX_ITER", iterations, "SOLVER.WARMUP_ITERS", warmup, "SOLVER.CHECKPOINT_PERIOD", iterations]
    keys += ["TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 0, *recipe.keys]
    command = [sys.executable, "-m", "cellseg_d2", "train", "--overwrite", "--config-file", recipe.config]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(Path(job.work) / DATASETS)}
    before, started = processor_seconds(), time.perf_counter()
    process = subprocess.run([*command, *map(str, keys)], env=environment)
    if process.returncode:
        raise CellSegError(f"cellseg-d2 train failed with exit code {process.returncode}")
    return Run(processor_seconds() - before, time.perf_counter() - started)


def calibrate(job: Job) -> tuple[Run, Run]:
    """What an iteration takes, and what all else takes: starting up, loading data and saving."""
    short, longer = (train(job, job.folder / "calibration", iterations) for iterations in (SHORT, LONGER))
    pace = Run(*((more - less) / (LONGER - SHORT) for less, more in zip(short, longer)))
    return pace, Run(*(whole - SHORT * each for whole, each in zip(short, pace)))


def train_for(job: Job) -> tuple[Path, Training]:
    """Trains as many iterations as the budget has room for.

    Returns:
        The checkpoint, and what the iterations took; with a number of steps, what the command took.
    """
    rest = Run(0.0, 0.0)
    if job.steps is None:
        pace, rest = calibrate(job)
    iterations = job.steps or max(round(job.seconds / pace.processor), 1)
    run = train(job, job.folder / "training", iterations)
    training = Training(iterations, run.processor - rest.processor, run.wall - rest.wall)
    return job.folder / "training" / "model_final.pth", training


def main(job: Job) -> None:
    """Trains, predicts and writes the result."""
    torch.set_num_threads(1)
    checkpoint, training = train_for(job)
    opened = WeightsFile.read(checkpoint)
    cfg = opened.cfg()
    tests, seconds, thresholds = job.test_images(), {}, {}
    for way in WAYS:
        cfg.CELLSEG.INFERENCE.TTA.ENABLED = way == "full"
        predictor = WholeImagePredictor.from_cfg(cfg, opened)
        least = best_least_score(predictor.predict, job.validation_images()) if way == "full" else PLAIN
        seconds[way] = predict(job, way, tests, label_map_finder(predictor.predict, least))
        thresholds[way] = f"{least:.2f}"
    batch = cfg.SOLVER.IMS_PER_BATCH
    write_result(job, training, batch, seconds, thresholds, ("torch", "numpy"))


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
