"""Trains the arms of studies, each run in a separate process and folder, and continues after an interruption."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cellseg_d2
from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision, detection_cap
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.listing import TEST_FOLDER, TEST_IDS
from cellseg_d2.report.run_folder import METRICS_FILE
from cellseg_d2.studies.arms import MODELS, Arm, Study
from cellseg_d2.studies.results import (
    SETTINGS,
    Finished,
    find_same,
    is_finished,
    is_trained,
    read_finished,
    summarise,
    write_result,
)
from cellseg_d2.studies.settings import reference_cfg, run_overrides, run_settings
from cellseg_d2.studies.tools import call
from cellseg_d2.studies.truth import TEST_TRUTH, check_truth, has_truth

logger = logging.getLogger(__name__)


OWN_KEYS = {
    "SOLVER.MAX_ITER": "--iterations",
    "SEED": "--repeats",
    "OUTPUT_DIR": "--output",
    "CELLSEG.DATASET": "--data",
    "DATASETS.TRAIN": "--data",
    "DATASETS.TEST": "--data",
}
"""Config keys that a study sets -> the option that they follow."""


@dataclass(frozen=True)
class Options:
    """The options that all runs of a command share.

    Attributes:
        data: the input layout, with ``train/``.
        output: the folder for all results.
        model: one of :data:`cellseg_d2.studies.arms.MODELS`.
        iterations: iterations per run; None for the shipped config's number.
        repeats: seeds of each arm.
        tile_size: largest side of a tile in pixels.
        workers: processes of the conversion.
        num_gpus: GPUs per training.
        user: KEY VALUE KEY VALUE ... for all arms.
    """

    data: Path
    output: Path
    model: str = "laptop"
    iterations: int | None = None
    repeats: int = 1
    tile_size: int = 512
    workers: int = 1
    num_gpus: int = 1
    user: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises CellSegError where a value is out of its range, or the user sets a key that the study sets."""
        if min(self.repeats, 1 if self.iterations is None else self.iterations) < 1:
            raise CellSegError("--iterations and --repeats must be at least 1")
        for key in self.user[::2]:
            if key in OWN_KEYS:
                raise CellSegError(f"{key} is set by the study, for all arms alike; use {OWN_KEYS[key]}")


@dataclass(frozen=True)
class Run:
    """One training: an arm with one seed.

    Attributes:
        name: ``study/arm/seed``, which is its folder below the output.
        arm: the arm that is trained.
        seed: its random seed.
        folder: the folder for its files.
        config: name of the config.
        overrides: KEY VALUE KEY VALUE ..., which replace values of the config.
        settings: everything that its result depends on.
    """

    name: str
    arm: Arm
    seed: int
    folder: Path
    config: str
    overrides: tuple[str, ...]
    settings: dict[str, Any]


def run_studies(studies: Sequence[Study], options: Options) -> Iterator[tuple[Study, dict[str, list[Finished]]]]:
    """Runs what is not finished yet, and yields each study with its arms' runs as soon as all of them are finished.

    Raises:
        CellSegError: bad options or data, a run of other settings is in the way, or a training failed.
    """
    options.check()
    datasets = _convert(options, sorted({arm.overlap for study in studies for arm in study.arms}))
    cellseg_d2.setup(_datasets_folder(options))
    plans = [(study, plan(study, options, datasets)) for study in studies]
    for _, runs in plans:
        for run in runs:
            is_finished(run.folder, run.settings)  # reports runs of other settings before the first training
    for study, runs in plans:
        for number, run in enumerate(runs, start=1):
            execute(run, f"{run.name} ({number} of {len(runs)})", options)
        finished: dict[str, list[Finished]] = {arm.name: [] for arm in study.arms}
        for run in runs:
            finished[run.arm.name].append(read_finished(run.folder, run.seed))
        yield study, finished


def plan(study: Study, options: Options, datasets: dict[float, tuple[str, str]]) -> list[Run]:
    """The runs of a study: all arms of one seed, then of the next, so that an interrupted study has complete pairs.

    Args:
        study: what is compared.
        options: the command's options.
        datasets: overlap -> the name of the registered dataset and a fingerprint of its content.
    """
    # only this study's datasets, so that its settings do not depend on other studies of the same command
    names = [datasets[overlap][0] for overlap in sorted({arm.overlap for arm in study.arms})]
    reference = reference_cfg(MODELS[options.model], names, options.user)
    iterations = options.iterations or reference.SOLVER.MAX_ITER
    runs = []
    for seed in range(1, options.repeats + 1):
        for arm in study.arms:
            dataset, content = datasets[arm.overlap]
            config = arm.config(options.model)
            overrides = run_overrides(config, arm.overrides(), dataset, seed, reference, iterations, options.user)
            settings = {**run_settings(config, overrides), "DATA": content}
            name = f"{study.name}/{arm.name}/seed{seed}"
            runs.append(Run(name, arm, seed, options.output / name, config, tuple(overrides), settings))
    return runs


def execute(run: Run, title: str, options: Options) -> None:
    """Trains and scores a run, or continues it; does nothing where it has its result.

    Args:
        run: the run.
        title: the run's name in log lines.
        options: the command's options.

    Raises:
        CellSegError: the folder holds a run of other settings, or a tool failed.
    """
    if is_finished(run.folder, run.settings):
        logger.info("%s: is there", title)
        return
    # the shipped config is an arm of several studies
    if same := find_same(options.output, run.seed, run.settings):
        logger.info("%s: is the same as %s", title, same)
        _take_over(run, options.output / same, same)
        return
    logger.info("%s: training %d iterations", title, run.settings["SOLVER"]["MAX_ITER"])
    write_json(run.folder / SETTINGS, run.settings, indent=1)
    if not is_trained(run.folder, run.settings["SOLVER"]["MAX_ITER"]):
        train = ["--resume", "--num-gpus", str(options.num_gpus), "--config-file", run.config]
        call("train", [*train, *run.overrides, "OUTPUT_DIR", str(run.folder)], run.folder, _datasets_folder(options))
    result = summarise(run.folder, _test_ap50(run, options))
    for path in run.folder.glob("model_[0-9]*.pth"):  # a finished run is never continued
        path.unlink()
    write_result(run.folder, result)
    logger.info("%s: validation AP50 %.1f, test AP50 %.1f", title, result.validation_ap50, result.test_ap50)


def _datasets_folder(options: Options) -> Path:
    return options.output / "datasets"


def _convert(options: Options, overlaps: Sequence[float]) -> dict[float, tuple[str, str]]:
    """Converts the input once per overlap, with the same split; returns the datasets that :func:`plan` takes.

    Each command converts again, which takes seconds, because only this shows whether the input has changed.

    Raises:
        CellSegError: there are no images to validate on, or the ground truth does not fit the test images.
    """
    datasets = {}
    for overlap in overlaps:
        name = f"overlap_{overlap:g}" if overlap else "tiles"
        folder = _datasets_folder(options) / name
        sizes = ConvertOptions(tile_size=options.tile_size, overlap=overlap)
        convert(options.data, folder, sizes, workers=options.workers, overwrite=True)
        if not (folder / "annotations" / "instances_val_whole.json").is_file():
            raise CellSegError(f"{options.data}: has one labelled image; a study needs others for validation")
        files = [folder / "dataset.json", *sorted((folder / "annotations").glob("*.json"))]
        check_truth(options.data, len(read_json(folder / "dataset.json")["class_names"]))
        datasets[overlap] = (name, hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    return datasets


def _take_over(run: Run, source: Path, name: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    for file in (SETTINGS, METRICS_FILE):
        shutil.copyfile(source / file, run.folder / file)
    result = read_finished(source, run.seed).result
    write_result(run.folder, replace(result, trained_in=result.trained_in or name))


def _test_ap50(run: Run, options: Options) -> float:
    """Mask AP50 of the best checkpoint on the test images; NaN where they have no ground truth."""
    truth, images, ids = (options.data / name for name in (TEST_TRUTH, TEST_FOLDER, TEST_IDS))
    if not has_truth(options.data):
        return math.nan
    best = run.folder / "model_best.pth"  # missing where validation images have no cells
    weights = best if best.is_file() else run.folder / "model_final.pth"
    output = run.folder / "test"
    arguments = ["--weights", str(weights), "--input", str(images), "--output", str(output), "--formats", "coco"]
    arguments += ["--overwrite"]  # a run that was stopped between prediction and result
    if ids.is_file():
        arguments += ["--image-ids", str(ids)]
    call("predict", arguments, run.folder, _datasets_folder(options))
    content, results = read_pair(truth, output / "test-results.json")
    return average_precision(content, results, "segm", detection_cap(content, results))["AP50"]
