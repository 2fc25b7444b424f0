#!/usr/bin/env python
"""Measures the parts of the plugin and prints Markdown tables: ratios first, all of one run on one machine."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from benchmarks import all_parts
from benchmarks.parts import PARTS, add_common, add_data, add_part
from benchmarks.table import machine
from cellseg_d2.commands.cli import ToolParser, run_tool


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parsers = parser.add_subparsers(dest="part", required=True, metavar="PART", parser_class=ToolParser)
    for name, part in PARTS.items():
        add_part(parsers, name, part)
    everything = parsers.add_parser("all", help="the short form of all parts that need no training, in ten minutes")
    add_data(everything, "input layout with test images, for the parts that take data")
    everything.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="only these")
    add_common(everything)
    everything.set_defaults(size="short")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.getLogger("cellseg_d2").setLevel(logging.ERROR)  # conversions that are repeated repeat their notices
    failed: list[str] = []
    if args.part == "all":
        text, failed = all_parts.report(args.parts, args.size, args.data)
    else:
        part = PARTS[args.part]
        text = f"{machine(*part.packages)}\n\n{part.run(args)}"
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")
    if failed:
        sys.stderr.write(f"error: failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
