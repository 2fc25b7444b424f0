"""What ``doctor --deep`` tries: the main job on drawn images of 64 px, in a folder that is thrown away.

Training and prediction are processes of their own, the commands that a user would type: one that crashes, hangs or
loads a broken library ends itself and not the report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import cellseg_d2
from cellseg_d2.errors import CellSegError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 64
CENTRES = [(16, 16), (16, 48), (48, 16), (48, 48)]
"""Of the nuclei of each image, in pixels."""

IMAGES = 4
LONGEST = 900
"""Seconds that one command may take. A step is a matter of seconds; a loader that waits for ever is not."""


@dataclass(frozen=True)
class Trial:
    """One thing that was tried.

    Attributes:
        what: in words.
        ended: what came out, or why nothing did.
        passed: whether it was what had to come out.
        seconds: that it took.
    """

    what: str
    ended: str
    passed: bool
    seconds: float

    def line(self) -> str:
        """For a report."""
        word = "done in" if self.passed else "FAILED after"
        return f"{self.what}: {word} {self.seconds:.1f} s, {self.ended}"


def trials() -> Iterator[Trial]:
    """Tries all there is, one after the other; none needs another one's result."""
    steps = {
        "decode LZW-compressed TIFF tiles": decode,
        f"convert {IMAGES} images of {SIDE} px and train the laptop model for one step": train,
        f"predict an image of {SIDE} px with the weights nuclei": predict,
    }
    for what, step in steps.items():
        with TemporaryDirectory() as folder:
            yield try_step(what, step, Path(folder))


def try_step(what: str, step: Callable[[Path], str], folder: Path) -> Trial:
    """Runs one step, which gets a folder and tells what came out, and keeps the reason if it fails."""
    started = time.monotonic()
    try:
        ended, passed = step(folder), True
    except Exception as error:  # a broken package raises anything, and the report is there to say so
        ended = str(error) if isinstance(error, CellSegError) else f"{type(error).__name__}: {one_line(error)}"
        passed = False
    return Trial(what, ended, passed, time.monotonic() - started)


def decode(folder: Path) -> str:
    """Writes a label map in LZW-compressed tiles, as most label TIFFs are, and reads it as the conversion does."""
    import numpy as np

    from cellseg_d2.images.tiff import read_label_map

    labels = draw(0)[1]
    read = read_label_map(_write(folder / "labels.tif", labels))
    if not np.array_equal(read, labels):
        raise CellSegError("other values were read than were written")
    return f"{SIDE} x {SIDE} values as they were written"


def train(folder: Path) -> str:
    """Converts labelled images and trains on them for one step, with the evaluation that follows it."""
    for number in range(IMAGES):
        image, labels = draw(number)
        sample = folder / "input" / "train" / f"image{number}"
        sample.mkdir(parents=True)
        _write(sample / "image.tif", image)
        _write(sample / "class1.tif", labels)
    run("convert", "--input", folder / "input", "--output", folder / "datasets" / "trial")
    keys = {"CELLSEG.DATASET": "trial", "SOLVER.MAX_ITER": 1, "OUTPUT_DIR": folder / "output"}
    words = [word for pair in keys.items() for word in pair]
    run("train", "--config-file", "mask_rcnn_lite0_FPN", *words, DETECTRON2_DATASETS=str(folder / "datasets"))
    from cellseg_d2.report.curves import read_metrics

    last = read_metrics(folder / "output" / "metrics.json")[-1]
    return f"total loss {last['total_loss']:.3g}"


def predict(folder: Path) -> str:
    """Finds the nuclei of one image."""
    from cellseg_d2.files import read_json

    image = _write(folder / "image.tif", draw(0)[0])
    run("predict", "--weights", "nuclei", "--input", image, "--output", folder / "found")
    found = sum(result["score"] >= 0.5 for result in read_json(folder / "found" / "test-results.json"))
    if found != len(CENTRES):
        raise CellSegError(f"{found} nuclei were found where {len(CENTRES)} are drawn")
    return f"all {found} nuclei found"


def draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright nuclei on a dark ground: (64, 64, 3) uint8 RGB, and their (64, 64) int32 label map."""
    import numpy as np

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number, (row, column) in enumerate(CENTRES, start=1):
        labels[(y - row) ** 2 + (x - column) ** 2 <= rng.uniform(6, 10) ** 2] = number
    grey = np.where(labels > 0, 150, 20) + rng.integers(0, 20, labels.shape)
    return np.repeat(grey[..., None].astype(np.uint8), 3, axis=2), labels


def _write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.int32]) -> Path:
    """A TIFF in LZW-compressed tiles."""
    import tifffile

    tifffile.imwrite(path, pixels, compression="lzw", tile=(32, 32))
    return path


def run(verb: str, *words: object, **environment: str) -> None:
    """Runs a verb of ``cellseg-d2`` with this interpreter, this package and further variables of the environment.

    Raises:
        CellSegError: it fails; the message is the last line that it wrote.
    """
    paths = [str(Path(cellseg_d2.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "cellseg_d2", verb, *map(str, words)]
    try:
        done = subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired as error:
        raise CellSegError(f"{verb} was not done after {LONGEST} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        end = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise CellSegError(f"{verb} ended with {end}: {lines[-1].strip() if lines else 'it wrote nothing'}")
