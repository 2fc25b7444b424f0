"""Trains a model per fold of a dataset, and predicts and scores each labelled image with the one that never saw it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser, positive
from cellseg_d2.errors import Stopped
from cellseg_d2.files import whole_file, write_json
from cellseg_d2.outputs import STUDY, claimed, output_folder


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__, epilog="Config keys follow at the end as KEY VALUE, such as SOLVER.MAX_ITER 1000.")
    parser.add_argument(
        "--dataset", type=Path, required=True, metavar="DATASET", help="converted with --folds, such as datasets/mine"
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config file, or the name of a shipped one"
    )
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="trainings and results")
    parser.add_argument("--num-gpus", type=positive, default=1, metavar="N", help="GPUs per training and prediction")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from cellseg_d2.studies.crossval import OUT_OF_FOLD, Options, cross_validate, markdown, summary

    options = Options(args.dataset, args.output, args.config_file, args.num_gpus, tuple(args.opts))
    command = shlex.join(["cellseg-d2", "crossval", *(sys.argv[1:] if argv is None else argv)])
    try:
        with claimed(args.output, STUDY, may_hold=True):
            scores = cross_validate(options)
            text = markdown(scores, command)
            with whole_file(args.output / "crossval.json") as partial:
                write_json(partial, summary(scores, command), indent=1)
            with whole_file(args.output / "crossval.md") as partial:
                partial.write_text(text, encoding="utf-8")
    except Stopped:
        print("to go on: the same command", flush=True)
        raise
    print(text)
    print(f"predictions of all images: {args.output / OUT_OF_FOLD}")
