"""Runs the sides, each in a process of the Python that has what it needs, and makes the tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.data import prepare
from benchmarks.accuracy.job import WAYS, Job
from benchmarks.accuracy.score import score
from benchmarks.sides import MAIN
from benchmarks.table import Table, number
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.cell_metrics import ACCURACY_NAMES
from cellseg_d2.files import read_json
from cellseg_d2.progress import track

CORES = 2
"""Of the machine whose minutes are counted."""

STARDIST = Path(f"{sys.prefix}-stardist") / "bin" / "python"
"""The Python that runs StarDist's side, of the environment that ``make bench-setup`` makes."""

WITHOUT_STARDIST = "StarDist is not installed: `make bench-setup` installs it, and its rows are added."

ACCURACIES = ACCURACY_NAMES[:9]
"""At IoU 0.50 to 0.90."""

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
"""What limits a side to one thread, as those that wait for each other take processor time too."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
        title: its name in the tables.
        module: what its process runs.
        start: the weights that it starts from.
        full: its full settings in words.
    """

    title: str
    module: str
    start: str
    full: str


SIDES = {
    "imagenet": Side("this package, ImageNet", "package_side", "ImageNet", "8 views"),
    "nuclei": Side("this package, `nuclei`", "package_side", "`nuclei`", "8 views"),
    "stardist": Side("StarDist 2D", "stardist_side", "random", "thresholds optimised"),
    "torchvision": Side("torchvision Mask R-CNN", "torchvision_side", "random", "resized to 800 px"),
}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        minutes: how long each training may use :data:`CORES` cores.
        steps: how many steps each training has instead; None for as many as the minutes allow.
        images: the most validation and the most test images; None for all.
    """

    minutes: float = 20.0
    steps: int | None = None
    images: int | None = None

    @property
    def seconds(self) -> float:
        """Processor time of each training."""
        return 60 * self.minutes * CORES


QUICK = Settings(steps=2, images=1)
"""For a test of the benchmark itself; its figures mean nothing."""


def report(data: Path, work: Path, sides: Sequence[str], settings: Settings, stardist: Path = STARDIST) -> str:
    """The tables as Markdown.

    Args:
        data: the input layout, with test images and their ground truth.
        work: the work folder; sides that are done there with the same data and settings are not run again.
        sides: names of :data:`SIDES`.
        settings: what is run.
        stardist: the Python of StarDist's environment; where it is missing, a line says so instead.

    Raises:
        CellSegError: the data are not complete, or a side failed.
    """
    work = work.absolute()
    known = prepare(data, work)
    chosen = [side for side in SIDES if side in sides and (side != "stardist" or stardist.is_file())]
    results, scores = {}, {}
    for side in track(chosen, len(chosen), "sides"):
        job = Job(side, str(work), known, settings.seconds, settings.steps, settings.images)
        results[side] = result_of(job, stardist if side == "stardist" else MAIN)
        scores[side] = {way: score(data, job.folder / way) for way in WAYS}
    parts = [results_table(results, scores).markdown(), training_table(results, settings).markdown()]
    if "stardist" in sides and "stardist" not in chosen:
        parts.append(f"{WITHOUT_STARDIST}\n")
    return "\n".join(parts)


def result_of(job: Job, python: Path) -> Mapping[str, Any]:
    """What a side gave back, which is made unless it is there.

    Raises:
        CellSegError: the side failed; its output is in ``log.txt`` of its folder.
    """
    result = job.folder / "result.json"
    if result.is_file() and read_json(result)["job"] == asdict(job):
        return dict(read_json(result))
    shutil.rmtree(job.folder, ignore_errors=True)
    path = job.write()
    one = dict.fromkeys(THREADS, "1")
    environment = {**os.environ, **one, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    log = job.folder / "log.txt"
    command = [str(python), "-m", f"benchmarks.accuracy.{SIDES[job.side].module}", str(path)]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if process.returncode or not result.is_file():
        raise CellSegError(f"{log}: the side failed with exit code {process.returncode}; its last lines say why")
    return dict(read_json(result))


def results_table(results: Mapping[str, Any], scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """F1, accuracy and the time of prediction, each side plain and with its full settings."""
    rows = []
    for side, result in results.items():
        for way in WAYS:
            summary = scores[side][way]
            settings = SIDES[side].full if way == "full" else way
            shown = [f"{summary[name]:.1f}" for name in ("F1@0.50", "F1@0.70", *ACCURACIES)]
            taken = number(result["megapixel_seconds"][way])
            rows.append([f"{SIDES[side].title}: {settings}", *shown, taken, result["thresholds"][way]])
    accuracies = [name.replace("accuracy@", "acc. ") for name in ACCURACIES]
    columns = ["side: settings", "F1 at 0.5", "F1 at 0.7", *accuracies, "s / MP", "least score"]
    text = (
        "Label maps of the test images, all scored by the same code, in percent. Accuracy is StarDist's, "
        "TP / (TP + FP + FN), by IoU. Seconds per megapixel are processor time of one thread, from pixels to label "
        "map. Full settings use a least score that was chosen on the validation images, outside the training's time. "
        "`nuclei` was trained before, for two hours on 562 images of BBBC038, those of the open nuclei set among "
        "them, but no test image."
    )
    return Table("Accuracy", text, columns, rows)


def training_table(results: Mapping[str, Any], settings: Settings) -> Table:
    """What each training was."""
    rows = []
    for side, result in results.items():
        took = result["training"]
        versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
        shown = [str(took["steps"]), str(result["batch"])]
        shown += [f"{took['processor_seconds'] / 60:.1f}", f"{took['wall_seconds']:.0f}", versions]
        rows.append([SIDES[side].title, SIDES[side].start, *shown])
    length = f"{settings.steps} steps" if settings.steps else f"{settings.minutes:g} minutes of {CORES} cores"
    text = (
        f"Asked for: {length} each, counted as processor time of one thread, without loading data, starting up and "
        f"validation. {os.cpu_count()} CPU cores. torchvision has no weights without a download, so it starts from "
        "random weights; it has this package's anchors, numbers of sampled boxes and bfloat16."
    )
    columns = ["side", "start", "steps", "images a step", "processor minutes", "wall s", "versions"]
    return Table("Training", text, columns, rows)
