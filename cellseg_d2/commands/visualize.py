"""Draws the images of a dataset, augmented training tiles, or predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cellseg_d2
from cellseg_d2.commands.cli import ToolParser, add_score_threshold, positive
from cellseg_d2.images.listing import list_images
from cellseg_d2.outputs import output_file


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    dataset = commands.add_parser("dataset", help="labelled images beside their cells, coloured by class")
    dataset.set_defaults(run=draw_dataset)
    dataset.add_argument("--input", type=Path, required=True, help="as given to convert, or what it wrote")
    dataset.add_argument(
        "--class-names", nargs="+", default=[], metavar="NAME", help="names of class1.tif, class2.tif, ..."
    )
    dataset.add_argument("--channels", nargs="+", default=[], metavar="CHANNEL", help="as given to convert")
    dataset.add_argument("--output", type=output_file, required=True, metavar="PNG")
    dataset.add_argument("--samples", type=positive, default=6, help="images, spread over all")

    augmentation = commands.add_parser("augmentation", help="training tiles beside augmented copies of them")
    augmentation.set_defaults(run=draw_augmentation)
    augmentation.add_argument("--config-file", required=True, metavar="FILE")
    augmentation.add_argument("--output", type=output_file, required=True, metavar="PNG")
    augmentation.add_argument("--samples", type=positive, default=3, help="tiles, those with the most cells")
    augmentation.add_argument("--augmentations", type=positive, default=10, help="augmented copies of each")
    augmentation.add_argument("--seed", type=int, default=42)
    augmentation.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")

    predictions = commands.add_parser("predictions", help="images beside the cells found in them")
    predictions.set_defaults(run=draw_predictions)
    predictions.add_argument("--input", type=Path, required=True, help="a folder of TIFFs, or one TIFF")
    predictions.add_argument("--image-ids", type=Path, metavar="JSON", help="as given to predict")
    predictions.add_argument("--predictions", type=Path, required=True, metavar="test-results.json")
    predictions.add_argument(
        "--ground-truth", type=Path, metavar="GT.json", help="drawn too, with what was missed marked"
    )
    predictions.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="up to three to show as red, green and blue (default: those of prediction.json beside, or RGB)",
    )
    predictions.add_argument("--output", type=output_file, required=True, metavar="PNG")
    add_score_threshold(predictions, "the least score of a drawn cell")
    predictions.add_argument("--samples", type=positive, default=6, help="images, the first ones")
    return parser


def draw_dataset(args: argparse.Namespace) -> None:
    from cellseg_d2.report.dataset_grid import write_dataset_grid

    write_dataset_grid(args.input, args.output, args.samples, args.class_names, args.channels)


def draw_augmentation(args: argparse.Namespace) -> None:
    from cellseg_d2.engine.run_config import build_cfg
    from cellseg_d2.report.augmentation_grid import write_augmentation_grid

    cellseg_d2.setup()
    cfg = build_cfg(args.config_file, args.opts)
    write_augmentation_grid(cfg, args.output, args.samples, args.augmentations, args.seed)


def draw_predictions(args: argparse.Namespace) -> None:
    from cellseg_d2.export.record import picture_rule
    from cellseg_d2.report.prediction_grid import write_prediction_grid

    write_prediction_grid(
        list_images(args.input, args.image_ids),
        args.predictions,
        args.output,
        ground_truth=args.ground_truth,
        numbered=args.image_ids is not None,
        score_threshold=args.score_threshold,
        samples=args.samples,
        rule=picture_rule(args.predictions, args.channels),
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.run(args)
    print(f"picture: {args.output}")
