"""Detectron2's loop in several precisions, and how a training ends before its time."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer

from cellseg_d2.engine.run_config import AMP_DTYPES
from cellseg_d2.errors import one_line


class StopTraining(BaseException):
    """Ends training early, with a message where it has failed. No ``Exception``: Detectron2 would log its traceback."""


def say_what_ended(error: BaseException) -> None:
    """Raises StopTraining for what torch raises, wherever a training is, when a process that loads tiles has ended."""
    if "DataLoader worker" in str(error) or isinstance(error, (ConnectionError, EOFError)):  # while it sent a tile
        raise StopTraining(
            f"a process that loads tiles has ended ({one_line(error, 100)}), as it does where memory or /dev/shm "
            "runs out; lower DATALOADER.NUM_WORKERS, and go on with --resume"
        ) from error


def build_loop(cfg: CfgNode, model: torch.nn.Module, data_loader: Any, optimizer: Any) -> SimpleTrainer:
    """Detectron2's loop, in the precision that the config asks for; it may get its data loader later."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    precision = AMP_DTYPES[cfg.CELLSEG.AMP_DTYPE]
    if cfg.MODEL.DEVICE == "cpu":
        return CPUAutocastTrainer(model, data_loader, optimizer)
    # float16 underflows without a scale on the losses; bfloat16 has the range of float32
    scaler = torch.amp.GradScaler("cuda", enabled=precision is torch.float16)
    return AMPTrainer(model, data_loader, optimizer, precision=precision, grad_scaler=scaler)


class CPUAutocastTrainer(SimpleTrainer):
    """Detectron2's loop with bfloat16 forward passes on a CPU, for which its ``AMPTrainer`` does not exist."""

    def run_step(self) -> None:
        """One step. Backward passes and the optimizer keep the precision that the forward pass chose."""
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()
