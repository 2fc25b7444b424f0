#!/usr/bin/env python
"""Draws what training sees."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cellseg_d2
from cellseg_d2.cli import run_tool


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    augmentation = commands.add_parser("augmentation", help="training tiles beside what augmentation makes of them")
    augmentation.add_argument("--config-file", required=True, metavar="FILE")
    augmentation.add_argument("--output", type=Path, required=True, metavar="PNG")
    augmentation.add_argument("--samples", type=int, default=4, help="rows: tiles, those with most cells first")
    augmentation.add_argument("--augmentations", type=int, default=5, help="augmented copies of each")
    augmentation.add_argument("--seed", type=int, default=42)
    augmentation.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    from cellseg_d2.engine.setup import build_cfg
    from cellseg_d2.report.previews import write_augmentation_preview

    args = build_parser().parse_args(argv)
    cellseg_d2.setup()
    write_augmentation_preview(build_cfg(args), args.output, args.samples, args.augmentations, args.seed)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
