#!/usr/bin/env python
"""Finds the cells in whole images of any size: test-results.json and overlays."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cellseg_d2
from cellseg_d2.cli import ToolParser, run_tool


def build_parser(formats: Sequence[str]) -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--weights", default="", metavar="CKPT", help="a checkpoint of train_net.py; carries its config"
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="instead: a config, with MODEL.WEIGHTS PATH")
    parser.add_argument("--input", type=Path, required=True, help="a folder of TIFFs, or one TIFF")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--image-ids", type=Path, metavar="JSON", help='[{"file_name", "id", "height", "width"}, ...]')
    parser.add_argument("--score-threshold", type=float, metavar="S", help="0.05 for AP (default), 0.5 for counting")
    parser.add_argument("--tile-size", type=int, metavar="PX", help="largest side of a tile (default 512)")
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="share that neighbouring tiles have in common")
    parser.add_argument("--formats", nargs="+", choices=formats, default=list(formats), help="what to write")
    parser.add_argument("--overlay-threshold", type=float, default=0.5, metavar="S", help="score of a cell to be drawn")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    from cellseg_d2.data.samples import list_images
    from cellseg_d2.engine.setup import prediction_cfg
    from cellseg_d2.inference.folder import FORMATS, predict_images
    from cellseg_d2.inference.predictor import WholeImagePredictor

    args = build_parser(FORMATS).parse_args(argv)
    keys = {
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": args.score_threshold,
        "CELLSEG.INFERENCE.TILE_SIZE": args.tile_size,
        "CELLSEG.INFERENCE.OVERLAP": args.overlap,
    }
    given = [text for key, value in keys.items() if value is not None for text in (key, str(value))]
    cellseg_d2.setup()
    images = list_images(args.input, args.image_ids)
    cfg = prediction_cfg(args.weights, args.config_file, [*given, *args.opts])
    counts = predict_images(
        WholeImagePredictor.from_cfg(cfg), images, args.output, args.formats, args.overlay_threshold
    )
    print(f"{len(images)} images: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(f"results: {args.output}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
