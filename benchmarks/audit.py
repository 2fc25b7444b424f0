"""How many label errors that were planted are at the top of the list of ``audit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.planted import KINDS, Planted, plant
from benchmarks.table import Table
from benchmarks.trainings import Workplace
from cellseg_d2.cells.tiling import Window
from cellseg_d2.files import read_json, write_json

SEEN_AS = {"dropped": "missing", "swapped": "wrong class", "merged": "merged"}
"""Kind of planted error -> the kind of doubt that finds it."""

SAME_BOX = 0.5
"""The least IoU of the boxes of an error and of the doubt that finds it."""

HALVES = ("even", "odd")
"""The images by their names in turn: the model of four classes is trained on the first half and sees the second."""


@dataclass(frozen=True)
class Settings:
    """What is planted, and how long the model is trained.

    Attributes:
        share: errors per labelled cell.
        seed: what the planted errors are drawn from.
        training_seed: SEED of each training.
        iterations: how long each training is.
        images: how many images are used, the first ones by name; None for all.
    """

    share: float = 0.05
    seed: int = 0
    training_seed: int = 42
    iterations: int = 300
    images: int | None = None


QUICK = Settings(share=0.2, iterations=2, images=4)


@dataclass(frozen=True)
class Found:
    """What a list has of the planted errors.

    Attributes:
        errors: those that were planted in the images of the list.
        places: per error that it finds, the place of the first doubt that does, from 0.
        kinds: the kind of each doubt of the list.
    """

    errors: Sequence[Planted]
    places: dict[Planted, int]
    kinds: Sequence[str]

    @property
    def length(self) -> int:
        """The doubts in the list."""
        return len(self.kinds)

    @property
    def tenth(self) -> int:
        """The doubts in the first tenth of the list."""
        return self.length // 10

    def among(self, count: int, kind: str | None = None) -> int:
        """Errors that the first ``count`` doubts find, of one kind or all."""
        return sum(place < count and kind in (None, error.kind) for error, place in self.places.items())


def report(data: Path, folder: Path, settings: Settings) -> str:
    """The tables as Markdown; what is in the folder already is not done again.

    Args:
        data: labelled images in the input layout.
        folder: for data, models and lists.
        settings: see :class:`Settings`.
    """
    work = Workplace(folder, settings.iterations)
    planted = _planted(data, work.folder, settings)
    images = sorted((work.folder / "planted" / "train").iterdir())
    work.convert(images, "all")
    for number, name in enumerate(HALVES):
        work.convert(images[number::2], name)
    of_half = {path.name for path in images[1::2]}
    trained = f"{settings.iterations} iterations from `nuclei`, four classes, trained on the other half of the images"
    weights = work.train(HALVES[0], settings.training_seed)
    sides = {
        "`nuclei`, one class, all images": (planted, _audit(work, "nuclei", "all")),
        trained: ([error for error in planted if error.image in of_half], _audit(work, weights, HALVES[1])),
    }
    found = {name: locate(errors, doubts) for name, (errors, doubts) in sides.items()}
    return f"{_summary(found).markdown()}\n{_by_kind(found).markdown()}"


def locate(planted: Sequence[Planted], doubts: Sequence[dict[str, Any]]) -> Found:
    """Finds each planted error in a list: by image, kind and box."""
    places: dict[Planted, int] = {}
    for error in planted:
        for place, doubt in enumerate(doubts):
            fits = doubt["image"] == error.image and doubt["kind"] == SEEN_AS[error.kind]
            x, y = doubt["x"], doubt["y"]
            if fits and _iou((x, y, x + doubt["width"], y + doubt["height"]), error.box) >= SAME_BOX:
                places[error] = place
                break
    return Found(planted, places, [doubt["kind"] for doubt in doubts])


def _iou(box: Window, other: Window) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box, other))
    return shared / (areas - shared)


def _planted(data: Path, folder: Path, settings: Settings) -> list[Planted]:
    known = folder / "planted.json"
    if not known.is_file():
        planted = plant(data, folder / "planted", settings.share, settings.seed, settings.images)
        write_json(known, [asdict(error) for error in planted], indent=1)
    return [Planted(**{**error, "box": tuple(error["box"])}) for error in read_json(known)]


def _audit(work: Workplace, weights: str | Path, dataset: str) -> list[dict[str, Any]]:
    output = work.folder / "audits" / f"{Path(weights).stem}_{dataset}"
    if not (output / "audit.json").is_file():
        options = ("--pictures", 0, "--output", output)
        work.call("audit", "--weights", weights, "--dataset", dataset, *options)
    doubts: list[dict[str, Any]] = read_json(output / "audit.json")["doubts"]
    return doubts


def _summary(found: dict[str, Found]) -> Table:
    text = (
        "How many of the planted errors the first doubts find: those of the first tenth of the list, as many doubts as "
        "errors were planted, and all."
    )
    columns = ["model", "planted", "doubts", "first tenth: doubts", "errors", "as many doubts: errors", "all: errors"]
    rows = []
    for name, one in found.items():
        planted = len(one.errors)
        counts = (planted, one.length, one.tenth, *(one.among(n) for n in (one.tenth, planted, one.length)))
        rows.append([name, *map(str, counts)])
    return Table("Planted label errors in the list", text, columns, rows)


def _by_kind(found: dict[str, Found]) -> Table:
    rows = []
    for name, one in found.items():
        for kind in KINDS:
            planted = sum(error.kind == kind for error in one.errors)
            listed = one.kinds[: one.tenth].count(SEEN_AS[kind])
            counts = [one.among(n, kind) for n in (one.tenth, len(one.errors), one.length)]
            rows.append([f"{name}: {kind}", *map(str, (planted, listed, *counts))])
    columns = ["model: kind", "planted", "first tenth: doubts of its kind", "errors", "as many doubts", "all"]
    return Table("By kind", "A model of one class cannot see a class that was swapped.", columns, rows)
