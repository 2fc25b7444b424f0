"""Writes other formats from results that are there (--results), or a model that runs without Detectron2 (--weights)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser, add_object_type, split_overrides
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.outputs import MODEL, PREDICTION, claimed, output_folder

OF_RESULTS = {"--formats": "formats", "--as": "object_type", "--min-score": "min_score", "--thresholds": "thresholds"}
OF_WEIGHTS = {"--name": "name", "--overwrite": "overwrite"}
"""Options that go with --results, and with --weights, alone: option -> its name in the parsed arguments."""


def build_parser() -> argparse.ArgumentParser:
    from cellseg_d2.export.formats import LATER_FORMATS

    parser = ToolParser(__doc__, epilog="Config keys may follow --weights at the end as KEY VALUE.")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="a folder that predict wrote, with test-results.json"
    )
    parser.add_argument(
        "--weights", metavar="CKPT", help="instead: a checkpoint, which contains its config, or nuclei; writes a model"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="DIR",
        help="the folder for files; with --results it may be left out (default: that of the results)",
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="with --results: the images that were predicted, for overlays, for mean intensities in tables and for "
        "paths in LabelMe's files; with --weights: an image with cells, the example of the model's description "
        "(default: drawn cells)",
    )
    parser.add_argument("--formats", nargs="+", choices=LATER_FORMATS, help="of --results: what to write")
    add_object_type(parser)
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="of --results: the least score (default: as predicted); needs another --output",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="JSON",
        help="of --results: the least score per class, as evaluate writes it; likewise",
    )
    parser.add_argument("--name", metavar="TEXT", help="of --weights: what the description calls the model")
    parser.add_argument("--overwrite", action="store_true", help="of --weights: replace an earlier model in --output")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_overrides(argv)
    parser = build_parser()
    args = parser.parse_args(options)
    if (args.results is None) == (args.weights is None):
        raise CellSegError(
            "give either --results DIR, to write other formats from results, or --weights CKPT, to write a model"
        )
    given, other = ("--weights", "--results") if args.results is None else ("--results", "--weights")
    of_other = OF_RESULTS if args.results is None else OF_WEIGHTS
    stray = [option for option, name in of_other.items() if vars(args)[name] != parser.get_default(name)]
    stray += [] if args.results is None else overrides[:1]
    if stray:
        raise CellSegError(f"{stray[0]} goes with {other}, not with {given}; leave it out")
    if args.results is not None:
        export_results(args)
    else:
        export_model(args, overrides)


def export_results(args: argparse.Namespace) -> None:
    """Writes other formats from the results of predict."""
    from cellseg_d2.evaluation.thresholds import read_thresholds
    from cellseg_d2.images.listing import list_images
    from cellseg_d2.inference import from_results

    if not args.formats:
        raise CellSegError("--results needs --formats: what to write, such as geojson")
    results = from_results.Results.read(args.results)
    output = args.output or args.results
    selection = results.selection
    if args.min_score is not None:
        selection = replace(selection, min_score=args.min_score, min_score_of_class={})
    if args.thresholds:
        thresholds = read_thresholds(args.thresholds, selection.class_names)
        selection = replace(selection, min_score_of_class=thresholds)
    files = list_images(args.input, None, output) if args.input else []
    with claimed(output, PREDICTION, may_hold=True):
        counts = from_results.export_results(results, output, args.formats, selection, files, args.object_type)
    print(f"{counted(len(results.images), 'image')}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(f"results: {output}")


def export_model(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the model of a checkpoint as a folder that runs by itself."""
    if args.output is None:
        raise CellSegError("--weights needs --output: the folder for the model")
    if args.input and len(args.input) > 1:
        raise CellSegError(f"--weights takes one image as --input, the example, not {len(args.input)}")
    from cellseg_d2.deployment.checks import check_exportable, described_name
    from cellseg_d2.engine.run_config import prediction_cfg
    from cellseg_d2.images.formats import read_whole
    from cellseg_d2.images.tiff import MAX_PIXELS
    from cellseg_d2.inference.predictor import WholeImagePredictor

    name = described_name(args.name, args.weights)
    with claimed(args.output, MODEL, may_hold=args.overwrite):
        cfg, opened = prediction_cfg(args.weights, "", [*overrides, "MODEL.DEVICE", "cpu"])
        check_exportable(cfg)
        from cellseg_d2.deployment.folder import write_model

        example = read_whole(args.input[0], cfg.CELLSEG.INTENSITY_RULE, MAX_PIXELS) if args.input else None
        predictor = WholeImagePredictor.from_cfg(cfg, opened)
        if args.overwrite:
            MODEL.remove(args.output)
        found = write_model(predictor, args.output, name, example)
    print(f"model: {args.output}; it finds {counted(found, 'cell')} in its example, also those of low score")
    print(f"python {args.output / 'run.py'} image.tif labels.tif runs it")
