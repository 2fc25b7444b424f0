#!/usr/bin/env python
"""Measures the parts of the plugin and prints Markdown tables: ratios first, all of one run on one machine."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence

from benchmarks.all_parts import Section, run_all
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


def run(args: argparse.Namespace) -> Iterator[Section]:
    """The pieces of the document that was asked for."""
    if args.part == "all":
        yield from run_all(args.parts, args.size, args.data)
    else:
        part = PARTS[args.part]
        yield Section(f"{machine(*part.packages)}\n\n{part.run(args)}")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.getLogger("cellseg_d2").setLevel(logging.ERROR)  # conversions that are repeated repeat their notices
    texts, failed = [], []
    for section in run(args):
        print(section.text, flush=True)
        texts.append(section.text)
        failed += [section.failed] if section.failed else []
        if args.output:  # each time, so that a run that is stopped leaves what it has
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text("\n".join(texts), encoding="utf-8")
    if failed:
        sys.stderr.write(f"error: failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
