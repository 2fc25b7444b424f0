#!/usr/bin/env python
"""Draws what training sees, and what a model found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cellseg_d2
from cellseg_d2.cli import ToolParser, run_tool
from cellseg_d2.data.samples import list_images


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    augmentation = commands.add_parser("augmentation", help="training tiles beside what augmentation makes of them")
    augmentation.set_defaults(run=draw_augmentation)
    augmentation.add_argument("--config-file", required=True, metavar="FILE")
    augmentation.add_argument("--output", type=Path, required=True, metavar="PNG")
    augmentation.add_argument("--samples", type=int, default=4, help="rows: tiles, those with most cells first")
    augmentation.add_argument("--augmentations", type=int, default=5, help="augmented copies of each")
    augmentation.add_argument("--seed", type=int, default=42)
    augmentation.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")

    predictions = commands.add_parser("predictions", help="images beside the cells found in them")
    predictions.set_defaults(run=draw_predictions)
    predictions.add_argument("--input", type=Path, required=True, help="a folder of TIFFs, or one TIFF")
    predictions.add_argument("--image-ids", type=Path, metavar="JSON", help="as given to predict.py")
    predictions.add_argument("--predictions", type=Path, required=True, metavar="test-results.json")
    predictions.add_argument("--ground-truth", type=Path, metavar="GT.json", help="drawn between the two")
    predictions.add_argument("--output", type=Path, required=True, metavar="PNG")
    predictions.add_argument("--score-threshold", type=float, default=0.5, help="of a cell to be drawn (default 0.5)")
    predictions.add_argument("--samples", type=int, default=6, help="rows: the first images (default 6)")
    return parser


def draw_augmentation(args: argparse.Namespace) -> None:
    from cellseg_d2.engine.setup import build_cfg
    from cellseg_d2.report.augmentation_grid import write_augmentation_grid

    cellseg_d2.setup()
    cfg = build_cfg(args.config_file, args.opts)
    write_augmentation_grid(cfg, args.output, args.samples, args.augmentations, args.seed)


def draw_predictions(args: argparse.Namespace) -> None:
    from cellseg_d2.report.prediction_grid import write_prediction_grid

    images = list_images(args.input, args.image_ids)[: args.samples]
    write_prediction_grid(
        images, args.predictions, args.output, ground_truth=args.ground_truth, score_threshold=args.score_threshold
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.run(args)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
