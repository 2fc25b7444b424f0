"""Draws the loss and AP curves of a training from its metrics.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.outputs import output_file
from cellseg_d2.report.curves import plot_curves


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument("--metrics", type=Path, required=True, metavar="JSON", help="OUTPUT_DIR/metrics.json")
    parser.add_argument("--output", type=output_file, required=True, metavar="PNG", help="the picture to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    plot_curves(args.metrics, args.output)
    print(f"picture: {args.output}")
