"""Cross-validation: a training per fold of a dataset, and predictions of each image by the model that never saw it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cellseg_d2
from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.cells.image_names import IDS_FILE
from cellseg_d2.cells.selection import Selection
from cellseg_d2.conversion.existing import IMAGES_FILE
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import detection_cap
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.export.coco_results import ResultsWriter
from cellseg_d2.export.record import RESULTS_FILE, Record
from cellseg_d2.files import read_json, whole_file, without_nan, write_json
from cellseg_d2.studies.results import RESULT, SETTINGS, is_finished, is_trained
from cellseg_d2.studies.settings import run_settings
from cellseg_d2.studies.tools import call

logger = logging.getLogger(__name__)

METRICS: Mapping[str, str] = {"AP50": "AP50", "PQ": "mPQ+", "F1": "F1@0.50"}
"""Name in the table -> what :mod:`cellseg_d2.evaluation` calls it. Each is in percent, of masks, and the mean over the
classes: AP50 of all detections, the others of those that score :data:`SCORE_THRESHOLD` or more.
"""

SCORE_THRESHOLD = 0.5

OUT_OF_FOLD = "out_of_fold"
"""The folder for the predictions of all images."""

FOLD_KEYS = ("CELLSEG.DATASET", "DATASETS.TRAIN", "DATASETS.TEST", "OUTPUT_DIR")
"""Config keys that cross-validation sets."""


@dataclass(frozen=True)
class Options:
    """The options of a cross-validation.

    Attributes:
        dataset: the folder of a dataset with folds.
        output: the folder for all results.
        config: a config file, or the name of one.
        num_gpus: GPUs per training.
        user: KEY VALUE KEY VALUE ...
    """

    dataset: Path
    output: Path
    config: str
    num_gpus: int = 1
    user: tuple[str, ...] = ()

    @property
    def datasets(self) -> Path:
        """The folder that the dataset lies in."""
        return self.dataset.absolute().parent

    def check(self) -> None:
        """Raises CellSegError where the user sets a key that differs from fold to fold."""
        for key in self.user[::2]:
            if key in FOLD_KEYS:
                raise CellSegError(f"{key} is another in each fold; leave it out, and give --dataset and --output")


@dataclass(frozen=True)
class Fold:
    """A fold's training.

    Attributes:
        number: from 1.
        folder: the folder for its files.
        truth: the ground truth of its untiled validation images.
        overrides: KEY VALUE KEY VALUE ..., which replace values of the config.
        settings: everything that its result depends on.
    """

    number: int
    folder: Path
    truth: Path
    overrides: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def predictions(self) -> Path:
        """The folder of the predictions of its validation images."""
        return self.folder / "predictions"


@dataclass(frozen=True)
class Score:
    """A fold's result: the number of its validation images, and :data:`METRICS`, NaN for what cannot be measured."""

    fold: int
    images: int
    metrics: Mapping[str, float]


def cross_validate(options: Options) -> list[Score]:
    """Runs what is not finished yet, and puts the predictions of all folds together below OUT_OF_FOLD.

    Raises:
        CellSegError: the dataset has no folds, a run of other settings is in the way, or a training failed.
    """
    options.check()
    folds = plan(options)
    for fold in folds:
        is_finished(fold.folder, fold.settings)  # reports runs of other settings before the first training
    for fold in folds:
        _execute(fold, f"fold {fold.number} of {len(folds)}", options)
    _join(folds, options.output / OUT_OF_FOLD, read_json(options.dataset / "dataset.json")["class_names"])
    return [_score_of(fold) for fold in folds]


def plan(options: Options) -> list[Fold]:
    """The folds of the dataset with their settings.

    Raises:
        CellSegError: the dataset has none, or the config is refused.
    """
    description, annotations = options.dataset / "dataset.json", options.dataset / "annotations"
    if not description.is_file():
        raise CellSegError(f"{options.dataset}: is no converted dataset (it has no dataset.json); give --dataset one")
    cellseg_d2.setup(options.datasets)  # also says where dataset.json is damaged
    count = len(read_json(description).get("folds", []))
    if not count:
        raise CellSegError(f"{options.dataset}: has no folds; convert with --folds 5")
    folds = []
    for number in range(1, count + 1):
        overrides = ("CELLSEG.DATASET", f"{options.dataset.absolute().name}_fold{number}", *options.user)
        files = [annotations / f"instances_fold{number}_{part}.json" for part in ("train", "val", "val_whole")]
        data = _digest([options.dataset / IMAGES_FILE, *files])  # the first has digests of the pixels
        settings = {**run_settings(options.config, overrides), "DATA": data}
        folds.append(Fold(number, options.output / f"fold{number}", files[-1], overrides, settings))
    return folds


def _digest(paths: Sequence[Path]) -> str:
    """A fingerprint of files.

    Raises:
        CellSegError: one cannot be read.
    """
    try:
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    except OSError as error:
        raise CellSegError(f"{error.filename}: cannot be read ({error.strerror}); convert again") from error


def _execute(fold: Fold, title: str, options: Options) -> None:
    """Trains, predicts and scores a fold, or goes on with it; does nothing where it has its result."""
    if is_finished(fold.folder, fold.settings):
        logger.info("%s: is there", title)
        return
    iterations = fold.settings["SOLVER"]["MAX_ITER"]
    logger.info("%s: training %d iterations", title, iterations)
    write_json(fold.folder / SETTINGS, fold.settings, indent=1)
    if not is_trained(fold.folder, iterations):
        train = ["--resume", "--num-gpus", str(options.num_gpus), "--config-file", options.config]
        call("train", [*train, *fold.overrides, "OUTPUT_DIR", str(fold.folder)], fold.folder, options.datasets)
    if not (fold.predictions / RESULTS_FILE).is_file():
        _predict(fold, options)
    for path in fold.folder.glob("model_[0-9]*.pth"):  # a finished run is never continued
        path.unlink()
    score = _score(fold)
    with whole_file(fold.folder / RESULT) as partial:
        write_json(partial, without_nan({"images": score.images, **score.metrics}), indent=1)
    logger.info("%s: %s", title, ", ".join(f"{name} {value:.1f}" for name, value in score.metrics.items()))


def _predict(fold: Fold, options: Options) -> None:
    """Predicts the validation images with the best checkpoint, or the last one where none was evaluated."""
    images = read_json(fold.truth)["images"]
    ids = fold.folder / IDS_FILE
    write_json(ids, [{"file_name": Path(image["file_name"]).name, "id": image["id"]} for image in images])
    best = fold.folder / "model_best.pth"
    weights = best if best.is_file() else fold.folder / "model_final.pth"
    arguments = ["--weights", str(weights), "--input", *(str(options.dataset / image["file_name"]) for image in images)]
    arguments += ["--image-ids", str(ids), "--output", str(fold.predictions), "--formats", "coco"]
    call("predict", [*arguments, "--num-gpus", str(options.num_gpus)], fold.folder, options.datasets)


def _score(fold: Fold) -> Score:
    truth, results = read_pair(fold.truth, fold.predictions / RESULTS_FILE)
    selection = Selection(class_names(truth), SCORE_THRESHOLD)
    judgement = judge_results(truth, results, detection_cap(truth, results), selection)
    found = {**judgement.ap.get("segm", {}), **(judgement.cells.metrics.summary if judgement.cells else {})}
    return Score(fold.number, len(truth["images"]), {name: found.get(key, math.nan) for name, key in METRICS.items()})


def _score_of(fold: Fold) -> Score:
    """The score of a finished fold, as :func:`_execute` wrote it."""
    content = read_json(fold.folder / RESULT)
    metrics = {name: math.nan if content[name] is None else content[name] for name in METRICS}
    return Score(fold.number, content["images"], metrics)


def _join(folds: Sequence[Fold], folder: Path, class_names: list[str]) -> None:
    """Writes the predictions of all folds into one folder, as ``predict`` does, so that ``export`` takes it.

    Which cells people see is left to the defaults: the thresholds of the folds' checkpoints differ.
    """
    ids = [entry for fold in folds for entry in read_json(fold.predictions / IDS_FILE)]
    write_json(folder / IDS_FILE, sorted(ids, key=lambda entry: entry["id"]), indent=1)
    with ResultsWriter.open(folder / RESULTS_FILE) as writer:
        for fold in folds:
            writer.append(read_json(fold.predictions / RESULTS_FILE))
    read = Record.read(folds[0].predictions)
    Record(class_names, intensity_rule=read.intensity_rule, channels=read.channels).write(folder)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation (of a sample) of the values that could be measured; NaN where none could.

    >>> mean_and_spread([1.0, 3.0, float("nan")])
    (2.0, 1.4142135623730951)
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def summary(scores: Sequence[Score], command: str) -> dict[str, Any]:
    """What ``crossval.json`` holds; null for what cannot be measured."""
    spreads = {name: mean_and_spread([score.metrics[name] for score in scores]) for name in METRICS}
    return {
        "command": command,
        "score_threshold": SCORE_THRESHOLD,
        "folds": [{"fold": score.fold, "images": score.images, **without_nan(dict(score.metrics))} for score in scores],
        "mean": without_nan({name: mean for name, (mean, _) in spreads.items()}),
        "standard_deviation": without_nan({name: spread for name, (_, spread) in spreads.items()}),
    }


def markdown(scores: Sequence[Score], command: str) -> str:
    """A table with a row per fold, and the mean and standard deviation of the folds below."""

    def text(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.1f}"

    spreads = [mean_and_spread([score.metrics[name] for score in scores]) for name in METRICS]
    rows: list[Sequence[str]] = [("fold", "images", *METRICS), ("---", *["---:"] * (1 + len(METRICS)))]
    rows += [(str(score.fold), str(score.images), *map(text, score.metrics.values())) for score in scores]
    images = str(sum(score.images for score in scores))
    rows.append(("mean ± standard deviation", images, *(f"{text(mean)} ± {text(spread)}" for mean, spread in spreads)))
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"`{command}`", "", *lines, ""])
