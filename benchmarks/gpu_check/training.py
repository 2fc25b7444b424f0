"""Trainings of the laptop model: on both devices, stopped and resumed, and by two processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detectron2.utils.env import seed_all_rng

import cellseg_d2
from benchmarks.gpu_check.findings import (
    CLASSES,
    SAMPLE_ALL,
    SEED,
    Finding,
    Settings,
    Side,
    compared,
    full_precision,
)
from benchmarks.synthetic import dense_cells, write_sample
from benchmarks.table import number
from cellseg_d2.commands.trial import run
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.weights.checkpoint import open_weights

CONFIG = "ablations/laptop_sgd"
"""SGD: AdamW turns last digits of small gradients into whole steps."""

ITERATIONS, STOP = 4, 2
"""Of a training, and after how many it is stopped; on a few more, last digits would grow."""

IMAGES, TILE, CELLS = 6, 96, 9
"""As many cells in each image, so that two processes have as many RoIs to take the mean over as one."""

ALLOWED = 0.02
"""How far the weights of two trainings may be apart, by how far training moved them."""


@dataclass(frozen=True)
class Training:
    """The weights that a training began and ended with, each in one row."""

    start: torch.Tensor
    end: torch.Tensor

    @property
    def moved(self) -> float:
        """How far training moved the weights."""
        return float((self.end - self.start).norm())


class Workplace:
    """A folder with a drawn dataset, and trainings on it.

    Args:
        folder: an empty one with a name that no dataset has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.datasets = folder / "datasets"
        for seed in range(IMAGES):
            write_sample(folder / "input", f"image{seed}", *dense_cells(TILE, CELLS, CLASSES, (5, 9), seed))
        convert(folder / "input", self.datasets / folder.name, ConvertOptions(val_fraction=0))
        cellseg_d2.setup(self.datasets)

    def keys(self, side: Side, output: Path) -> list[str]:
        """The config keys of a training in which nothing but the order of the tiles is drawn at random."""
        keys = {
            **{"CELLSEG.DATASET": self.folder.name, "MODEL.DEVICE": side.device, "OUTPUT_DIR": output, "SEED": SEED},
            **{"SOLVER.MAX_ITER": ITERATIONS, "SOLVER.CHECKPOINT_PERIOD": STOP, "SOLVER.IMS_PER_BATCH": 2},
            **{"DATALOADER.NUM_WORKERS": 0, "INPUT.CROP.ENABLED": False, "CELLSEG.AUG.AFFINE_PROB": 0.0, **SAMPLE_ALL},
        }
        return [*(str(word) for pair in keys.items() for word in pair), *side.overrides]

    def train(self, side: Side, name: str, resumed: Training | None = None) -> Training:
        """Trains in this process.

        Args:
            side: where.
            name: the name of the folder for its files.
            resumed: the training whose checkpoint lies there to go on from; None begins anew.
        """
        output = self.folder / name
        output.mkdir(exist_ok=True)
        cfg = build_cfg(CONFIG, self.keys(side, output))
        seed_all_rng(SEED)
        with full_precision():
            trainer = CellTrainer(cfg)
            trainer.resume_or_load(resume=resumed is not None)
            start = _flat(trainer.model.state_dict()) if resumed is None else resumed.start
            trainer.train()
        return Training(start, _flat(trainer.model.state_dict()))

    def stop(self, name: str, stopped: str) -> None:
        """Makes the folder that a training would have left that was stopped after ``STOP`` iterations."""
        (self.folder / stopped).mkdir()
        checkpoint = f"model_{STOP - 1:07d}.pth"
        shutil.copy(self.folder / name / checkpoint, self.folder / stopped)
        (self.folder / stopped / "last_checkpoint").write_text(checkpoint, encoding="utf-8")

    def train_in_two(self, side: Side, name: str) -> torch.Tensor:
        """The weights after two processes have trained, as a user starts them."""
        output = self.folder / name
        variables = {"DETECTRON2_DATASETS": str(self.datasets), "NVIDIA_TF32_OVERRIDE": "0"}
        if side.device == "cpu":
            variables["CUDA_VISIBLE_DEVICES"] = ""
        run("train", "--num-gpus", 2, "--config-file", CONFIG, *self.keys(side, output), **variables)
        return _flat(open_weights(str(output / "model_final.pth"))["model"])


def _flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([torch.as_tensor(weights[name]).detach().double().cpu().flatten() for name in sorted(weights)])


def compare_trainings(settings: Settings) -> Iterator[Finding]:
    """The device's training against the reference's, a resumed one, and one of two processes."""
    with TemporaryDirectory(prefix="gpu_check_") as name:
        work = Workplace(Path(name))
        expected = work.train(settings.reference, "reference")
        found = work.train(settings.device, "device")
        yield weights_apart(f"{CONFIG}: {ITERATIONS} iterations", expected, found.end, found.moved)
        work.stop("device", "resumed")
        resumed = work.train(settings.device, "resumed", found)
        yield weights_apart(
            f"{CONFIG}: resumed after {STOP}, against unbroken on the device", found, resumed.end, resumed.moved
        )
        check = f"{CONFIG}: two processes, against one on the device"
        if settings.device.device == "cuda" and torch.cuda.device_count() < 2:
            yield Finding(check, ended="not run: NCCL needs two GPUs, there is one")
            return
        two = work.train_in_two(settings.device, "two")
        yield weights_apart(check, found, two, float((two - found.start).norm()))


def weights_apart(check: str, expected: Training, weights: torch.Tensor, moved: float) -> Finding:
    """How far a training's weights are from the expected ones, as a share of the way that these were moved.

    Args:
        check: what is compared.
        expected: the training to compare with.
        weights: all weights at the other training's end, as one vector.
        moved: how far that one moved them.
    """
    difference = float((weights - expected.end).norm()) / max(expected.moved, 1e-30)
    given = f"weights moved by {number(expected.moved)}", f"weights moved by {number(moved)}"
    return compared(check, given, difference, ALLOWED)
