"""The folder of a training or an evaluation, from the command line to the run: whose it is, and what it holds."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode

from cellseg_d2.engine.launch import started_process
from cellseg_d2.engine.run_config import resumes_from
from cellseg_d2.errors import CellSegError
from cellseg_d2.outputs import CHECKPOINTS, TRAINING, claimed, holds
from cellseg_d2.weights.checkpoint import WeightsFile

logger = logging.getLogger(__name__)

EVALUATION_FOLDER = "evaluation"
"""Below the folder of a training, where ``--eval-only`` writes if it is given that."""


@contextmanager
def run_folder(cfg: CfgNode, args: argparse.Namespace) -> Iterator[None]:
    """OUTPUT_DIR for this run alone. Only the first of several processes claims it.

    Args:
        cfg: from :func:`cellseg_d2.engine.run_config.build_cfg`.
        args: the arguments of the command ``train``.

    Raises:
        CellSegError: it holds another training, or the weights to begin with, is in use, or cannot be written to.
    """
    weights = cfg.MODEL.WEIGHTS
    if args.overwrite and weights and os.path.dirname(os.path.realpath(weights)) == os.path.realpath(cfg.OUTPUT_DIR):
        raise CellSegError(f"{weights}: lies in the training that --overwrite replaces; give another OUTPUT_DIR")
    if not is_first(args):
        yield
        return
    with claimed(Path(cfg.OUTPUT_DIR), TRAINING, may_hold=args.resume or args.overwrite or args.eval_only):
        yield


def is_first(args: argparse.Namespace) -> bool:
    """Whether this process is the first of all, or the one that starts it."""
    started = started_process()
    return (started.rank if started else args.machine_rank) == 0


def clear_for(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Removes what the run is not to go on with, once everything else has been checked.

    Raises:
        CellSegError: ``--resume`` finds weights, but no checkpoint to go on from; nothing is removed then.
    """
    if not is_first(args):
        return
    folder = Path(cfg.OUTPUT_DIR)
    without = args.resume and not resumes_from(cfg.OUTPUT_DIR)
    if without and holds(folder, CHECKPOINTS):
        raise CellSegError(
            f"{folder}: holds weights, but no last_checkpoint to go on from; write the name of a checkpoint into "
            "last_checkpoint, give another OUTPUT_DIR, or --overwrite to begin anew"
        )
    if without and TRAINING.is_in(folder):
        logger.warning("%s: has no checkpoint to go on from, so training begins anew", folder)
    if args.overwrite or without:
        TRAINING.remove(folder)


def evaluation_dir(output_dir: str) -> str:
    """Where ``--eval-only`` writes: OUTPUT_DIR, or a folder in it where that is a training's, which stays as it is."""
    return os.path.join(output_dir, EVALUATION_FOLDER) if holds(Path(output_dir), CHECKPOINTS) else output_dir


def has_ended(cfg: CfgNode) -> bool:
    """Whether the training in OUTPUT_DIR has come to SOLVER.MAX_ITER, and to its last evaluation."""
    checkpoint = resumes_from(cfg.OUTPUT_DIR)
    state = WeightsFile.read(checkpoint).content if checkpoint else {}
    done, trainer = state.get("iteration", -1) + 1, state.get("trainer", {})
    return bool(checkpoint) and done >= cfg.SOLVER.MAX_ITER and not trainer.get("unevaluated")


def command_to_go_on(words: Sequence[str] | None = None) -> str:
    """What to type to go on with the training that this process ran.

    Args:
        words: the words after the command's name; None for the words that this process was started with.
    """
    program = sys.argv[0]  # "cellseg-d2 train", or a script
    named = ["python", program] if program.endswith(".py") else program.split()
    given = [word for word in (sys.argv[1:] if words is None else words) if word not in ("--resume", "--overwrite")]
    return shlex.join([*named, "--resume", *given])
