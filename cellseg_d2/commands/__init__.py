"""The command line ``cellseg-d2 VERB ...``: each verb is a module here, with ``build_parser`` and ``main``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import cellseg_d2
from cellseg_d2.commands.cli import run_tool
from cellseg_d2.errors import CellSegError

VERBS = {
    "convert": "turn label TIFFs or COCO annotations into a tiled dataset",
    "train": "train a model, or evaluate one with --eval-only",
    "predict": "find the cells in whole images",
    "export": "write other formats from results that are there, or a model that runs without Detectron2",
    "evaluate": "score predictions against ground truth",
    "audit": "list labelled cells that a model contradicts, worst first",
    "rank": "order unlabelled images by what labelling them may gain",
    "merge": "merge predictions from several models",
    "report": "write an HTML page on a dataset, trainings or results",
    "visualize": "draw a dataset, its augmentation or predictions",
    "ablate": "train the variants of a study and compare them",
    "crossval": "train a model per fold, and predict each image with one that never saw it",
    "plot-curves": "draw the loss and AP curves of a training",
    "import-monusac": "write MoNuSAC as label TIFFs, the input of convert",
    "doctor": "check this installation",
}
"""Verb -> its help text, in the order of the list in ``--help``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``cellseg-d2`` and returns its exit code.

    Args:
        argv: the words after the program's name; None for those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "--version"):
        return run_tool(_print, words)
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        return run_tool(_refuse, words)
    sys.argv = [f"cellseg-d2 {verb}", *rest]  # argparse takes the program's name from here
    return run_tool(command_module(verb).main, rest)


def command_module(verb: str) -> ModuleType:
    """The module of a verb, imported on first use, because help must not load torch."""
    return import_module(f"{__name__}.{verb.replace('-', '_')}")


def help_text() -> str:
    """The text of ``cellseg-d2 --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: cellseg-d2 VERB ...",
            "",
            "Instance segmentation of cells: from label TIFFs to a trained Mask R-CNN and whole-image results.",
            "",
            *lines,
            "",
            "cellseg-d2 VERB --help lists the options of a verb, cellseg-d2 --version prints the version.",
            "",
        ]
    )


def _print(argv: Sequence[str] | None) -> None:
    version = f"cellseg-d2 {cellseg_d2.__version__}\n"
    sys.stdout.write(version if argv and argv[0] == "--version" else help_text())


def _refuse(argv: Sequence[str] | None) -> None:
    verb = (argv or [""])[0]
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(VERBS)}"
    raise CellSegError(f"there is no verb {verb!r}; {hint}")
