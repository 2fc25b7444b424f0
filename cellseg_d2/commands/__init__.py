"""The command line, one module per command: ``cellseg-d2 VERB ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "convert": "label TIFFs or COCO annotations -> a tiled dataset to train on",
    "train": "train or evaluate a model on a converted dataset",
    "predict": "find the cells in whole images",
    "evaluate": "score predictions against ground truth",
    "merge": "merge the predictions of several models or runs",
    "report": "write an HTML page about a dataset, trainings or results",
    "visualize": "draw a dataset, its augmentation or predictions",
    "ablate": "train the variants of a study and compare them",
    "plot-curves": "draw the loss and AP curves of a training",
    "import-monusac": "bring MoNuSAC to the input layout of convert",
    "doctor": "check this installation",
}
"""Verb -> what it does, in the order in which they are listed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    module = import_module(f"cellseg_d2.commands.{words[0].replace('-', '_')}")
    sys.argv = [f"cellseg-d2 {words[0]}", *words[1:]]
    from cellseg_d2.commands.cli import run_tool

    return run_tool(module.main, words[1:])
