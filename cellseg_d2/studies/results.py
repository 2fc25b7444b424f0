"""The result of a study's run, and the files in its folder that hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json, write_json
from cellseg_d2.report.curves import Curve, curve, read_metrics, training_seconds
from cellseg_d2.report.run_folder import METRICS_FILE
from cellseg_d2.studies.settings import differences

SETTINGS = "settings.json"
RESULT = "result.json"

VALIDATION = "segm/AP50"


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
        validation_ap50: the highest mask AP50 on the untiled validation images; NaN where there is none.
        test_ap50: mask AP50 of the same checkpoint on the test images; NaN where they have no ground truth.
        loss: the final loss, Detectron2's median of the last 20 iterations.
        seconds: time of the iterations, without evaluations; NaN where there were too few to tell.
        trained_in: the run, as ``study/arm/seed``, from which the result was copied, where another study had already
            trained the same.
    """

    validation_ap50: float
    test_ap50: float
    loss: float
    seconds: float
    trained_in: str = ""


@dataclass(frozen=True)
class Finished:
    """A run with its result and its curves."""

    seed: int
    result: Result
    losses: Curve
    validation: Curve


def summarise(folder: Path, test_ap50: float) -> Result:
    """The result of a training that has ended in this folder."""
    records = read_metrics(folder / METRICS_FILE)
    losses = curve(records, "total_loss")
    scores = [value for _, value in curve(records, VALIDATION) if not math.isnan(value)]
    if not losses:
        raise CellSegError(f"{folder / METRICS_FILE}: has no loss; the training ended before it logged the first one")
    return Result(max(scores, default=math.nan), test_ap50, losses[-1][1], training_seconds(records))


def write_result(folder: Path, result: Result) -> None:
    """Writes RESULT, which marks the run as finished; NaN, which JSON lacks, becomes null."""
    values = {key: None if value != value else value for key, value in asdict(result).items()}
    write_json(folder / RESULT, values, indent=1)


def read_finished(folder: Path, seed: int) -> Finished:
    """Reads what :func:`write_result` and the training have written."""
    content = read_json(folder / RESULT)
    trained_in = content.pop("trained_in")
    values = {key: math.nan if value is None else value for key, value in content.items()}
    records = read_metrics(folder / METRICS_FILE)
    losses, validation = curve(records, "total_loss"), curve(records, VALIDATION)
    return Finished(seed, Result(**values, trained_in=trained_in), losses, validation)


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether this folder has the result of a run with these settings.

    Raises:
        CellSegError: the folder holds a run with other settings that has reached its first checkpoint; the message
            names the first keys that differ.
    """
    begun = any((folder / name).is_file() for name in ("last_checkpoint", RESULT))
    if not begun or not (folder / SETTINGS).is_file():
        return False
    if keys := differences(read_json(folder / SETTINGS), settings):
        named = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise CellSegError(f"{folder}: holds a run of other settings ({named}); give another --output, or remove it")
    return (folder / RESULT).is_file()


def is_trained(folder: Path, iterations: int) -> bool:
    """Whether a training has reached its last evaluation, so that nothing is left to train."""
    if not (folder / "model_final.pth").is_file():
        return False
    evaluated = curve(read_metrics(folder / METRICS_FILE), VALIDATION)
    return bool(evaluated) and evaluated[-1][0] >= iterations - 1


def find_same(output: Path, seed: int, settings: Mapping[str, Any]) -> str:
    """The name, ``study/arm/seed``, of a finished run below ``output`` with these settings; empty for none."""
    for result in sorted(output.glob(f"*/*/seed{seed}/{RESULT}")):
        if not differences(read_json(result.parent / SETTINGS), settings):
            return result.parent.relative_to(output).as_posix()
    return ""
