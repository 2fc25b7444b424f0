"""What the order of ``rank`` is worth: AP50 after labelling images in it against images at random."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.table import Table
from benchmarks.trainings import Workplace
from cellseg_d2.cells.arrays import Floats
from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision, detection_cap
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.listing import TEST_FOLDER, TEST_IDS
from cellseg_d2.studies.truth import TEST_TRUTH, has_truth

ARMS = ("ranked", "random")


@dataclass(frozen=True)
class Settings:
    """How much is trained.

    Attributes:
        start: labelled images in the beginning, drawn at random.
        add: images that each round adds.
        rounds: how often.
        seeds: how often all of it is done; a seed draws the images and seeds the trainings.
        iterations: the length of each training; each begins from ``nuclei``.
    """

    start: int = 10
    add: int = 10
    rounds: int = 2
    seeds: int = 3
    iterations: int = 100


QUICK = Settings(start=2, add=1, rounds=1, seeds=1, iterations=2)


@dataclass(frozen=True)
class Step:
    """A trained model: AP50 in percent, and how many cells it was trained on."""

    ap50: float
    cells: int
    images: tuple[str, ...]


def report(data: Path, folder: Path, settings: Settings) -> str:
    """The tables as Markdown; what is in the folder already is not trained again.

    Args:
        data: the input layout with test images and their ground truth.
        folder: for data, models and results.
        settings: see :class:`Settings`.

    Raises:
        CellSegError: there are too few images, or no ground truth.
    """
    images = {path.name: path for path in sorted((data / "train").iterdir())}
    if not has_truth(data):
        raise CellSegError(f"{data}: has no {TEST_FOLDER}/ with {TEST_TRUTH}; the models are scored on these")
    if (needed := settings.start + settings.rounds * settings.add) > len(images):
        raise CellSegError(f"{data}: has {len(images)} labelled images, {needed} are needed")
    work = Workplace(folder, settings.iterations)
    steps = {seed: _simulate(data, work, images, seed, settings) for seed in range(1, settings.seeds + 1)}
    return _table(steps, settings).markdown()


def _simulate(
    data: Path, work: Workplace, images: dict[str, Path], seed: int, settings: Settings
) -> dict[str, list[Step]]:
    """Both arms of one seed, which begin with the same images."""
    order = [sorted(images)[place] for place in np.random.default_rng(seed).permutation(len(images)).tolist()]
    start = order[: settings.start]
    arms = {}
    for arm in ARMS:
        labelled = list(start)
        steps = [_step(data, work, images, labelled, f"seed{seed}_start", seed)]
        for number in range(1, settings.rounds + 1):
            rest = [name for name in order if name not in labelled]
            if arm == "ranked":
                before = f"seed{seed}_start" if number == 1 else f"seed{seed}_{arm}{number - 1}"
                rest = _ranking(work, images, rest, before)
            labelled += rest[: settings.add]
            steps.append(_step(data, work, images, labelled, f"seed{seed}_{arm}{number}", seed))
        arms[arm] = steps
    return arms


def _ranking(work: Workplace, images: dict[str, Path], rest: Sequence[str], model: str) -> list[str]:
    """Images in the order of ``rank`` by a model that was trained already."""
    output = work.folder / "rankings" / model
    if not (output / "ranking.csv").is_file():
        pool = work.folder / "pools" / model
        pool.mkdir(parents=True, exist_ok=True)
        for name in rest:
            source = next(path for path in images[name].iterdir() if path.stem == "image")
            link = pool / f"{name}{source.suffix}"
            if not link.is_symlink():
                link.symlink_to(source.resolve())
        weights = work.folder / "models" / model / "model_final.pth"
        work.call("rank", "--weights", weights, "--input", pool, "--output", output, "--pictures", 0)
    with (output / "ranking.csv").open(encoding="utf-8", newline="") as file:
        return [Path(row["image"]).stem for row in csv.DictReader(file)]


def _step(data: Path, work: Workplace, images: dict[str, Path], labelled: Sequence[str], name: str, seed: int) -> Step:
    """Trains on some images and scores the model on the test images, if that is not done yet."""
    result = work.folder / "results" / f"{name}.json"
    if not result.is_file():
        work.convert([images[one] for one in labelled], name)
        weights = work.train(name, seed)
        output = work.folder / "predictions" / name
        ids = ("--image-ids", data / TEST_IDS) if (data / TEST_IDS).is_file() else ()
        options = (*ids, "--formats", "coco", "--overwrite")
        work.call("predict", "--weights", weights, "--input", data / TEST_FOLDER, "--output", output, *options)
        truth, results = read_pair(data / TEST_TRUTH, output / "test-results.json")
        ap50 = average_precision(truth, results, "segm", detection_cap(truth, results))["AP50"]
        counts = read_json(work.datasets / name / "dataset.json")["counts"]["train"]["tile_instances"]
        write_json(result, {"ap50": ap50, "cells": sum(counts.values()), "images": list(labelled)}, indent=1)
    content = read_json(result)
    if content["images"] != list(labelled):
        raise CellSegError(f"{result}: is of other images; give another --folder")
    return Step(content["ap50"], content["cells"], tuple(content["images"]))


def _table(steps: dict[int, dict[str, list[Step]]], settings: Settings) -> Table:
    """A row per number of images; both arms with their seeds, and how much the order is worth."""
    rows = []
    for number in range(settings.rounds + 1):
        images = settings.start + number * settings.add
        by_arm = {arm: [seed[arm][number] for seed in steps.values()] for arm in ARMS}
        ap50 = {arm: np.array([step.ap50 for step in by_arm[arm]]) for arm in ARMS}
        gain = ap50["ranked"] - ap50["random"]
        cells = [f"{np.mean([step.cells for step in by_arm[arm]]):.0f}" for arm in ARMS]
        rows.append([str(images), *(_range(values) for values in (*ap50.values(), gain)), *cells])
    text = (
        f"AP50 on the test images, mean (lowest to highest) of {len(steps)} seeds; {settings.iterations} iterations "
        f"from `nuclei` each time. Both begin with the same {settings.start} images. The difference is per seed."
    )
    columns = ["labelled images", "ranked", "random", "ranked - random", "cells, ranked", "cells, random"]
    return Table("Images in the order of rank against random order", text, columns, rows)


def _range(values: Floats) -> str:
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"
