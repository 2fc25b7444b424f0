"""Compares ways to train with the same data, seeds and iterations; writes a figure and a table per study.

The recipe is the set of training settings of the course benchmark that this project began with.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.errors import Stopped
from cellseg_d2.outputs import STUDY, claimed, output_folder
from cellseg_d2.studies.arms import MODELS, STUDIES


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument("--study", choices=[*STUDIES, "all"], required=True, help="what to compare")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="ROOT with train/<id>/image.tif")
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="runs, figures and tables")
    parser.add_argument("--iterations", type=int, metavar="N", help="iterations per run (default: the config's)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="seeds per variant")
    parser.add_argument(
        "--model", choices=list(MODELS), default="laptop", help="the model that all variants are based on"
    )
    parser.add_argument("--tile-size", type=int, default=512, metavar="PX", help="largest side of a tile")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes for conversion (default: one per core)",
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs per training")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys for all variants, at the end"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from cellseg_d2.studies.figures import draw
    from cellseg_d2.studies.run import Options, run_studies
    from cellseg_d2.studies.table import markdown

    options = Options(
        data=args.data,
        output=args.output,
        model=args.model,
        iterations=args.iterations,
        repeats=args.repeats,
        tile_size=args.tile_size,
        workers=args.workers,
        num_gpus=args.num_gpus,
        user=tuple(args.opts),
    )
    command = shlex.join(["cellseg-d2", "ablate", *(sys.argv[1:] if argv is None else argv)])
    studies = list(STUDIES.values()) if args.study == "all" else [STUDIES[args.study]]
    try:
        with claimed(args.output, STUDY, may_hold=True):
            for study, finished in run_studies(studies, options):
                text = markdown(study, finished, command)
                draw(study, finished, args.output / f"{study.name}.png")
                (args.output / f"{study.name}.md").write_text(text, encoding="utf-8")
                print(text)
                print(f"figure: {args.output / study.name}.png", flush=True)
    except Stopped:
        print("to go on: the same command", flush=True)
        raise
