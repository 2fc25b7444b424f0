"""Writes a single HTML file about a dataset, about trainings, or about the quality of results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser, add_score_threshold
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.outputs import output_file


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_dataset(commands)
    add_training(commands)
    add_evaluation(commands)
    return parser


def add_dataset(commands: argparse._SubParsersAction[ToolParser]) -> None:
    defaults = ConvertOptions()
    parser = commands.add_parser("dataset", help="sizes, classes, cells, what looks wrong, settings that suit it")
    parser.set_defaults(run=report_dataset)
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="ROOT as for convert, or a converted dataset",
    )
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE.html")
    parser.add_argument("--pictures", type=int, default=8, help="images that are shown with their cells")
    reading = parser.add_argument_group("for ROOT only, as in convert --check")
    reading.add_argument("--tile-size", type=int, default=defaults.tile_size, help="in pixels")
    reading.add_argument(
        "--overlap", type=float, default=defaults.overlap, help="share of a tile that neighbours cover"
    )
    reading.add_argument(
        "--class-names", nargs="+", default=[], metavar="NAME", help="names of class1.tif, class2.tif, ..."
    )
    reading.add_argument("--channels", nargs="+", default=[], metavar="CHANNEL", help="of the images, see convert")
    reading.add_argument("--format", metavar="NAME", help="format of the annotations (default: guessed), see convert")
    reading.add_argument("--from-coco", type=Path, metavar="GT.json", help="a COCO dataset of whole images in FOLDER")
    reading.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")


def add_training(commands: argparse._SubParsersAction[ToolParser]) -> None:
    parser = commands.add_parser("training", help="losses, learning rate and AP of runs, and their differing settings")
    parser.set_defaults(run=report_training)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a training")
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE.html")


def add_evaluation(commands: argparse._SubParsersAction[ToolParser]) -> None:
    parser = commands.add_parser("evaluation", help="AP, metrics of cells, errors, and the worst and best images")
    parser.set_defaults(run=report_evaluation)
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="GT.json")
    parser.add_argument("--predictions", type=Path, required=True, metavar="test-results.json")
    parser.add_argument("--input", type=Path, metavar="IMAGES", help="their folder; without it outlines are shown")
    parser.add_argument(
        "--image-ids", type=Path, metavar="JSON", help="as given to predict; else file names must agree"
    )
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE.html")
    parser.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="up to three to show as red, green and blue (default: those of prediction.json beside, or RGB)",
    )
    parser.add_argument("--images", type=int, default=12, metavar="N", help="worst and best to show")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--max-side", type=int, default=1024, metavar="PX", help="largest side of the pictures")
    size.add_argument("--full-size", action="store_true", help="show images at full size")
    add_score_threshold(parser, "for all but AP and errors")
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="for AP, per image and class (default: 1000, or as many as the densest image has)",
    )
    parser.add_argument(
        "--only-predicted", action="store_true", help="leave out images that were not predicted, by image_ids.json"
    )


def report_dataset(args: argparse.Namespace) -> None:
    from cellseg_d2.report.dataset_report import write_dataset_report

    options = ConvertOptions(
        tile_size=args.tile_size,
        overlap=args.overlap,
        class_names=tuple(args.class_names),
        channels=tuple(args.channels),
    )
    write_dataset_report(
        args.input,
        args.output,
        options,
        workers=args.workers,
        from_coco=args.from_coco,
        annotation_format=args.format,
        pictures=args.pictures,
    )


def report_training(args: argparse.Namespace) -> None:
    from cellseg_d2.report.training_report import write_training_report

    write_training_report(args.runs, args.output)


def report_evaluation(args: argparse.Namespace) -> None:
    from cellseg_d2.export.record import picture_rule
    from cellseg_d2.report.evaluation_report import GalleryOptions, write_evaluation_report

    side = None if args.full_size else args.max_side
    rule = picture_rule(args.predictions, args.channels)
    gallery = GalleryOptions(args.input, args.image_ids, args.images, side, rule)
    write_evaluation_report(
        args.ground_truth,
        args.predictions,
        args.output,
        gallery,
        score_threshold=args.score_threshold,
        max_detections=args.max_detections,
        only_predicted=args.only_predicted,
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.run(args)
    print(f"report: {args.output}")
