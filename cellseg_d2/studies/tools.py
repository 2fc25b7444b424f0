"""Runs commands of this package in processes of their own, which a study's trainings need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.errors import CellSegError
from cellseg_d2.signals import run_to_its_end


def call(verb: str, arguments: Sequence[str], folder: Path, datasets: Path) -> None:
    """Runs a command in a new process, with its output in ``<verb>.log``.

    Args:
        verb: the command.
        arguments: its arguments.
        folder: where the log is written.
        datasets: the folder of converted datasets.

    Raises:
        CellSegError: it failed.
        Stopped: a signal ended this process and that one, which may have saved what it had.
    """
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets.absolute())}
    log = folder / f"{verb}.log"
    command = [sys.executable, "-m", "cellseg_d2", verb, *arguments]
    with log.open("w", encoding="utf-8") as file:
        code = run_to_its_end(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if code:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise CellSegError(f"{verb} ended with exit code {code}: {lines[-1] if lines else 'no output'}; see {log}")
