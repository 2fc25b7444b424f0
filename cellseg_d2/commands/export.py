"""Writes files for QuPath, ImageJ and others from results that predict wrote; the network does not run again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser, add_object_type
from cellseg_d2.errors import counted
from cellseg_d2.outputs import PREDICTION, claimed, output_folder


def build_parser() -> argparse.ArgumentParser:
    from cellseg_d2.export.formats import LATER_FORMATS

    parser = ToolParser(__doc__)
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="a folder that predict wrote, with test-results.json"
    )
    parser.add_argument("--formats", nargs="+", choices=LATER_FORMATS, required=True, help="what to write")
    add_object_type(parser)
    parser.add_argument(
        "--output", type=output_folder, metavar="DIR", help="the folder for files (default: that of the results)"
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="the images that were predicted, for overlays, for mean intensities in tables and for paths in LabelMe's "
        "files",
    )
    parser.add_argument(
        "--min-score", type=float, metavar="S", help="the least score (default: as predicted); needs another --output"
    )
    parser.add_argument(
        "--thresholds", type=Path, metavar="JSON", help="the least score per class, as evaluate writes it; likewise"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from cellseg_d2.evaluation.thresholds import read_thresholds
    from cellseg_d2.images.listing import list_images
    from cellseg_d2.inference.from_results import Results, export_results

    results = Results.read(args.results)
    output = args.output or args.results
    selection = results.selection
    if args.min_score is not None:
        selection = replace(selection, min_score=args.min_score, min_score_of_class={})
    if args.thresholds:
        thresholds = read_thresholds(args.thresholds, selection.class_names)
        selection = replace(selection, min_score_of_class=thresholds)
    files = list_images(args.input, None, output) if args.input else []
    with claimed(output, PREDICTION, may_hold=True):
        counts = export_results(results, output, args.formats, selection, files, args.object_type)
    print(f"{counted(len(results.images), 'image')}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(f"results: {output}")
