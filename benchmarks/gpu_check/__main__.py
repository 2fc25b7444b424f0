"""Compares a machine's GPUs with its CPU and writes one Markdown table; exit code 1 where they differ.

Looked at are features, gradients and losses of every config, steps of mixed precision, trainings that are resumed and
that several processes share, prediction, and speed and memory of the large model.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cellseg_d2.commands.cli import ToolParser, run_tool, split_overrides
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import whole_file

if TYPE_CHECKING:
    from benchmarks.gpu_check.findings import Finding, Settings

IMAGES = Path(__file__).resolve().parents[2] / "datasets" / "sample" / "test_release"
"""What is predicted: real nuclei, which a clone has."""

PARTS = ("models", "steps", "trainings", "prediction", "speed")


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = ToolParser(
        __doc__,
        prog="python -m benchmarks.gpu_check",
        epilog="Config keys that follow at the end as KEY VALUE change the GPU's side alone: differences to be found.",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to this file as well")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which checks")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what is compared with the CPU; cpu tries the check itself, the models without oneDNN's kernels",
    )
    parser.add_argument("--quick", action="store_true", help="two small models and tiny sizes: tries the check")
    return parser


def checks(settings: Settings, parts: Sequence[str]) -> Iterator[tuple[str, Callable[[], Iterator[Finding]]]]:
    """The name of each check of some :data:`PARTS`, and what runs it."""
    from benchmarks.gpu_check import models, prediction, speed, training
    from cellseg_d2.engine.run_config import AMP_DTYPES

    works: dict[str, list[tuple[str, Callable[[], Iterator[Finding]]]]] = {
        "models": [(name, partial(models.compare_models, name, settings)) for name in settings.configs],
        "steps": [(f"steps in {name}", partial(models.mixed_steps, name, settings)) for name in AMP_DTYPES],
        "trainings": [("trainings", partial(training.compare_trainings, settings))],
        "prediction": [("prediction", partial(prediction.compare_predictions, settings, IMAGES))],
        "speed": [("speed", partial(speed.measure, settings))],
    }
    for part in PARTS:
        yield from works[part] if part in parts else ()


def find(settings: Settings, parts: Sequence[str]) -> Iterator[list[Finding]]:
    """Runs checks one after the other and gives what each found; stderr says which is at work."""
    from benchmarks.gpu_check.findings import guarded

    logging.getLogger("cellseg_d2").setLevel(logging.ERROR)  # of its trainings nobody needs the log
    logger = logging.getLogger("cellseg_d2.gpu_check")
    logger.setLevel(logging.INFO)
    for name, work in checks(settings, parts):
        logger.info("%s", name)
        yield list(guarded(name, work))


def report(findings: Sequence[Finding], device: str) -> str:
    """The table as Markdown, with the device and the versions that it was made with."""
    import detectron2
    import torch

    from benchmarks.gpu_check.findings import COLUMNS
    from benchmarks.table import Table, machine

    places = range(torch.cuda.device_count() if device == "cuda" else 0)
    names = ", ".join(torch.cuda.get_device_name(place) for place in places) or "the CPU alone"
    failed = sum(finding.failed for finding in findings)
    text = (
        f"On {names}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, Detectron2 "
        f"{detectron2.__version__}. {machine('torch', 'torchvision', 'numpy')} Differences are relative, the "
        "same random weights on both sides, float32 without TF32 but for speeds. "
        + (f"{failed} of {len(findings)} rows FAILED." if failed else "No row failed.")
    )
    return Table("GPU check", text, COLUMNS, [finding.row() for finding in findings]).markdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks; see this module."""
    options, overrides = split_overrides(argv)
    args = build_parser().parse_args(options)
    import torch

    from benchmarks.gpu_check.findings import Settings, Side, small
    from cellseg_d2.config import get_cfg

    if args.device == "cuda" and not torch.cuda.is_available():
        raise CellSegError(
            f"there is no GPU here that torch {torch.__version__} (built for CUDA {torch.version.cuda}) can use, so "
            "nothing was compared; --device cpu --quick tries the check itself"
        )
    get_cfg(overrides=overrides)  # a wrong key is no difference between devices
    reference, device = Side("cpu"), Side(args.device, tuple(overrides), onednn=args.device != "cpu")
    settings = small(reference, device) if args.quick else Settings(reference, device)
    findings: list[Finding] = []
    for found in find(settings, args.only):
        findings += found
        if args.output:  # after each check: a machine may be lent for a while only
            with whole_file(args.output) as partial_file:
                partial_file.write_text(report(findings, args.device), encoding="utf-8")
    print(report(findings, args.device))
    return 1 if any(finding.failed for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
