"""Writes docs/commands.md from the parsers: ``python -m cellseg_d2.commands.reference > docs/commands.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cellseg_d2.commands import VERBS, command_module
from cellseg_d2.commands.cli import default_text

LAPTOP = "--config-file mask_rcnn_lite0_FPN CELLSEG.DATASET mine"

JOBS = {
    "Look at your data before conversion": "convert --check --input my_data",
    "The same as a page with pictures": "report dataset --input my_data --output dataset.html",
    "Draw images beside their labelled cells": "visualize dataset --input my_data --output dataset.png",
    "Convert label TIFFs": "convert --input my_data --output datasets/mine --class-names tumour stroma",
    "Tile an existing COCO dataset": "convert --input images/ --from-coco GT.json --output datasets/mine",
    "Add new or corrected images to a dataset": "convert --input new_data --add-to datasets/mine",
    "See what augmentation does": "visualize augmentation --config-file mask_rcnn_lite0_FPN --output aug.png "
    "CELLSEG.DATASET mine",
    "Train on a laptop": f"train {LAPTOP} OUTPUT_DIR output/mine",
    "Train ResNeXt-101 on 2 GPUs": "train --num-gpus 2 --config-file mask_rcnn_X_101_32x8d_FPN CELLSEG.DATASET mine "
    "OUTPUT_DIR output/mine",
    "Continue after a stop": f"train --resume {LAPTOP} OUTPUT_DIR output/mine",
    "Validation mAP": f"train --eval-only {LAPTOP} MODEL.WEIGHTS output/mine/model_best.pth OUTPUT_DIR output/eval",
    "Loss and AP curves": "plot-curves --metrics output/mine/metrics.json --output curves.png",
    "Compare trainings": "report training output/mine output/other --output training.html",
    "Predict whole images": "predict --weights output/mine/model_best.pth --input images/ --output results/",
    "Files for QuPath, Fiji and spreadsheets": "predict --weights output/mine/model_best.pth --input images/ "
    "--output results/ --formats geojson rois labels csv overlay",
    "The same from results that are there": "export --results results/ --formats geojson rois",
    "A model that runs without Detectron2": "export --weights output/mine/model_best.pth --output model/",
    "Better and slower prediction": "predict --tta --weights output/mine/model_best.pth --input images/ "
    "--output results/",
    "Merge several models' predictions": "merge results_a/test-results.json results_b/test-results.json "
    "--output merged.json",
    "Score predictions of any tool": "evaluate --ground-truth GT.json --predictions results/test-results.json "
    "--output scores/",
    "See where a model fails": "report evaluation --ground-truth GT.json --predictions results/test-results.json "
    "--input images/ --output evaluation.html",
    "Find label errors": "audit --weights output/mine/model_best.pth --dataset mine --output audit/",
    "Find out which image to label next": "rank --weights output/mine/model_best.pth --input images/ --output ranking/",
    "Predict with the best threshold per class": "predict --thresholds scores/thresholds.json "
    "--weights output/mine/model_best.pth --input images/ --output results/ --formats overlay",
    "Draw image, ground truth and prediction": "visualize predictions --input images/ "
    "--predictions results/test-results.json --ground-truth GT.json --output grid.png",
    "Compare settings over seeds": "ablate --study anchors --data my_data --output output/studies --iterations 300 "
    "--repeats 2",
    "Make five folds of the images": "convert --input my_data --output datasets/mine --folds 5",
    "Cross-validate": "crossval --dataset datasets/mine --config-file finetune_nuclei --output output/crossval",
    "Check the installation": "doctor",
    "Check it by doing the main job on tiny images": "doctor --deep",
}
"""What users want to do -> the command line, after ``cellseg-d2``."""


def reference() -> str:
    """The Markdown of docs/commands.md: jobs first, then every verb with its options."""
    lines = [
        "# Commands",
        "",
        "<!-- Written by `make docs` from the parsers; a test compares. Edit cellseg_d2/commands instead. -->",
        "",
        "Every command is a verb of `cellseg-d2`, which `make setup` puts into `.venv/bin`. In a checkout `tools/` has",
        "the same commands as files, such as `tools/convert_tifs.py`, `tools/train_net.py` and `tools/predict.py`.",
        "",
        "Options come before config keys. Any key of Detectron2 or of [the plugin](../cellseg_d2/config.py) can follow",
        "`train`, `predict`, `export --weights`, `ablate` and `visualize augmentation` as `KEY VALUE`.",
        "",
        "`--help` and `--version` are on every verb.",
        "",
        "Exit codes: 0 for success; 2 for wrong usage or bad input, with one line that names the file and the fix;",
        "130 or 143 after Ctrl-C or SIGTERM, with what was done saved where a run can go on; 1 for anything else.",
        "",
        "| to do this | type `cellseg-d2` and |",
        "|---|---|",
        *(f"| {job} | `{command}` |" for job, command in JOBS.items()),
    ]
    for verb in VERBS:
        parser = command_module(verb).build_parser()
        lines += ["", f"## {verb}", "", *_parser_lines(parser, verb)]
    return "\n".join(lines) + "\n"


def _parser_lines(parser: argparse.ArgumentParser, words: str) -> Iterator[str]:
    yield _text(parser.description)
    if parser.epilog:
        yield ""
        yield _text(parser.epilog)
    on_every_verb = (argparse._HelpAction, argparse._VersionAction)
    actions = [action for action in parser._actions if not isinstance(action, on_every_verb)]
    nested = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    options = [action for action in actions if action not in nested]
    if options:
        yield from ("", "| option | what it does | default |", "|---|---|---|")
    for action in options:
        yield f"| {_name(action)} | {_text(action.help)} | {_default(action)} |"
    for action in nested:
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for name, inner in action.choices.items():
            inner.description = inner.description or helps.get(name)
            yield from ("", f"### {words} {name}", "", *_parser_lines(inner, f"{words} {name}"))


def _name(action: argparse.Action) -> str:
    metavar = action.metavar or (None if action.choices is None else "{" + ",".join(map(str, action.choices)) + "}")
    value = "" if action.nargs == 0 else str(metavar or action.dest.upper())
    if action.nargs in ("+", "*"):
        value += " ..."
    name = " ".join(filter(None, [", ".join(action.option_strings), value]))
    return f"`{name}`{' (required)' if action.required and action.option_strings else ''}"


def _default(action: argparse.Action) -> str:
    default = default_text(action)
    return f"`{default}`" if default else ""


def _text(text: str | None) -> str:
    """A help text on one line of Markdown; angle brackets would be taken for HTML."""
    words = " ".join((text or "").split()).replace("|", "\\|")
    return words.replace("<", "&lt;").replace(">", "&gt;") + ("" if not words or words[-1] in ".)" else ".")


if __name__ == "__main__":
    sys.stdout.write(reference())
