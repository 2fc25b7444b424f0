"""Merges COCO results of several checkpoints or several passes over the same images, by the overlap of their masks.

A cell in more of the files scores higher: its score is the weighted mean over all files, with 0 for one without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.errors import counted
from cellseg_d2.inference.merge import merge_files
from cellseg_d2.outputs import output_file


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument("predictions", type=Path, nargs="+", metavar="A.json", help="results files of the same images")
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE", help="the merged results")
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="one per file, in their order; else all 1"
    )
    parser.add_argument("--iou", type=float, default=0.5, help="masks with a larger IoU show one cell")
    parser.add_argument("--score-threshold", type=float, default=0.0, metavar="S", help="for the merged scores")
    parser.add_argument("--class-agnostic", action="store_true", help="join different classes, and let them vote")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    counts = merge_files(
        args.predictions,
        args.output,
        weights=args.weights,
        iou=args.iou,
        score_threshold=args.score_threshold,
        class_agnostic=args.class_agnostic,
    )
    print(f"{counted(counts.images, 'image')}: {' + '.join(map(str, counts.given))} cells -> {counts.merged}")
    print(f"results: {args.output}")
