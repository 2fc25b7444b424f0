"""What a side is told and what it gives back; imported by every side's environment, so numpy is all that it needs."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 42

PATCH = 256
"""Side of what a training sees of an image, in pixels, on all sides."""

WAYS = ("plain", "full")
"""How the test images are predicted: as simply as a side can, and with all that it offers for better results."""

Find = Callable[[NDArray[np.uint8]], tuple[NDArray[np.int32], NDArray[np.floating[Any]]]]
"""From (H, W, 3) uint8 RGB to a label map, (H, W) int32, and (N,) scores of the labels 1 .. N."""


@dataclass(frozen=True)
class LabelledImage:
    """An image of the work folder.

    Attributes:
        name: its file's name without the suffix.
        pixels: (H, W, 3) uint8 RGB.
        labels: (H, W) int32, 0 is background and each other value one cell; all 0 for a test image.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """A side's task.

    Attributes:
        side: the side's name.
        work: the work folder with ``data/`` and a folder per length and side.
        data: what the images are known by.
        seconds: processor time of the training.
        steps: ends the training after so many steps instead; None leaves it to the time.
        images: the most images that validation and test take, each; None for all.
    """

    side: str
    work: str
    data: str
    seconds: float
    steps: int | None = None
    images: int | None = None

    @property
    def folder(self) -> Path:
        """Where the side writes; another length has another folder."""
        length = f"{self.seconds:g}_seconds" if self.steps is None else f"{self.steps}_steps"
        return Path(self.work) / length / self.side

    def write(self) -> Path:
        """Writes the task for the side's process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """What :meth:`write` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def training_images(self) -> list[LabelledImage]:
        """All images to train on."""
        return list(self._images("train", None))

    def validation_images(self) -> list[LabelledImage]:
        """The images that thresholds may be chosen on."""
        return list(self._images("val", self.images))

    def test_images(self) -> list[LabelledImage]:
        """The images that results are wanted of, without labels."""
        return list(self._images("test", self.images))

    def _images(self, part: str, most: int | None) -> Iterator[LabelledImage]:
        for path in sorted((Path(self.work) / "data" / part).glob("*.npz"))[:most]:
            with np.load(path) as arrays:
                yield LabelledImage(path.stem, arrays["pixels"], arrays["labels"])


def processor_seconds() -> float:
    """Processor time, user's and system's, of this process and of those that it started and waited for."""
    taken = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in taken)


class Budget:
    """Counts the processor time of a training from its first step's end on, as starting up is not training.

    Attributes:
        steps: so many are done.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.steps = 0
        self._counted = 0.0
        self._since: float | None = None
        self._wall = 0.0

    def step(self) -> bool:
        """Counts a step, and says whether there is time for another."""
        self.steps += 1
        if self.steps == 1:
            self._since, self._wall = processor_seconds(), time.perf_counter()
        return self.share < 1

    @property
    def share(self) -> float:
        """How much of the budget is used up; 1 is all of it."""
        if self.job.steps is not None:
            return self.steps / self.job.steps
        return self.seconds / self.job.seconds

    @property
    def seconds(self) -> float:
        """Processor time so far."""
        return self._counted + (0.0 if self._since is None else processor_seconds() - self._since)

    def pause(self) -> None:
        """What follows is not training."""
        self._counted, self._since = self.seconds, None

    def resume(self) -> None:
        """What follows is training again."""
        self._since = processor_seconds()

    def training(self) -> Training:
        """What was counted."""
        return Training(self.steps, self.seconds, time.perf_counter() - self._wall)


@dataclass(frozen=True)
class Training:
    """What a training took.

    Attributes:
        steps: steps of the optimizer.
        processor_seconds: user's and system's.
        wall_seconds: by the clock on the wall.
    """

    steps: int
    processor_seconds: float
    wall_seconds: float


def predict(job: Job, way: str, images: list[LabelledImage], find: Find) -> float:
    """Writes what a side finds in images, each as ``WAY/NAME.npz``.

    Returns:
        Processor seconds per megapixel, from pixels to label map, after a first image of each size that is not counted.
    """
    folder = job.folder / way
    folder.mkdir(parents=True, exist_ok=True)
    for pixels in {image.pixels.shape: image.pixels for image in images}.values():
        find(pixels)  # TensorFlow compiles anew for each size
    taken = 0.0
    for image in images:
        started = processor_seconds()
        labels, scores = find(image.pixels)
        taken += processor_seconds() - started
        np.savez_compressed(folder / f"{image.name}.npz", labels=labels.astype(np.int32), scores=scores)
    return taken / sum(image.labels.size for image in images) * 1e6


def write_result(
    job: Job,
    training: Training,
    batch: int,
    megapixel_seconds: Mapping[str, float],
    thresholds: Mapping[str, str],
    packages: tuple[str, ...],
) -> None:
    """Writes ``result.json``, last of all: where it is, the side is done."""
    content = {
        "job": asdict(job),
        "training": asdict(training),
        "batch": batch,
        "megapixel_seconds": dict(megapixel_seconds),
        "thresholds": dict(thresholds),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in packages}},
    }
    partial = job.folder / "result.json.partial"
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, job.folder / "result.json")
