"""Short trainings from ``nuclei`` as a user runs them, each step in a process of its own and not done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.signals import run_to_its_end


@dataclass(frozen=True)
class Workplace:
    """A folder for data sets, models and results, where an interrupted benchmark goes on.

    Attributes:
        folder: the folder.
        iterations: the length of each training.
    """

    folder: Path
    iterations: int

    @property
    def datasets(self) -> Path:
        """The folder of converted datasets."""
        return self.folder / "datasets"

    def call(self, verb: str, *words: object) -> None:
        """Runs a verb of ``cellseg-d2``, with its output in ``<verb>.log``.

        Raises:
            CellSegError: it failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{verb}.log"
        command = [sys.executable, "-m", "cellseg_d2", verb, *map(str, words)]
        environment = {**os.environ, "DETECTRON2_DATASETS": str(self.datasets.absolute())}
        with log.open("w", encoding="utf-8") as file:
            code = run_to_its_end(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        if code:
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
            raise CellSegError(f"{verb} ended with exit code {code}: {lines[-1] if lines else 'no output'}; see {log}")

    def convert(self, images: Iterable[Path], name: str) -> None:
        """Makes a dataset, all of it for training, of some folders of the input layout."""
        if (self.datasets / name / "dataset.json").is_file():
            return
        source = self.folder / "inputs" / name / "train"
        source.mkdir(parents=True, exist_ok=True)
        for image in images:
            link = source / image.name
            if not link.is_symlink():
                link.symlink_to(image.resolve())
        convert(source.parent, self.datasets / name, ConvertOptions(val_fraction=0))

    def train(self, name: str, seed: int) -> Path:
        """The laptop model from ``nuclei``, trained on a dataset of :meth:`convert`: its checkpoint."""
        output = self.folder / "models" / name
        done = output / "model_final.pth"
        if not done.is_file():
            keys = {
                "CELLSEG.DATASET": name,
                "SEED": seed,
                "OUTPUT_DIR": output,
                "SOLVER.MAX_ITER": self.iterations,
                "SOLVER.WARMUP_ITERS": self.iterations // 10,
                "SOLVER.CHECKPOINT_PERIOD": self.iterations,
                "TEST.EVAL_PERIOD": 0,
            }
            words = [word for pair in keys.items() for word in pair]
            self.call("train", "--config-file", "finetune_nuclei", "--resume", *words)
        return done
