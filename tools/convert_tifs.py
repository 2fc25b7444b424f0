#!/usr/bin/env python
"""Converts per-class label TIFFs to a tiled COCO dataset that Detectron2 trains on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.cli import ToolParser, run_tool
from cellseg_d2.data.convert import ConvertOptions, convert


def build_parser() -> argparse.ArgumentParser:
    defaults = ConvertOptions()
    parser = ToolParser(__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="ROOT with train/<id>/image.tif and class<k>.tif")
    parser.add_argument("--output", type=Path, required=True, help="the dataset's folder, such as datasets/NAME")
    parser.add_argument("--tile-size", type=int, default=defaults.tile_size, help="largest side of a tile in pixels")
    parser.add_argument("--overlap", type=float, default=defaults.overlap, help="share that neighbours have in common")
    parser.add_argument(
        "--val-fraction", type=float, default=defaults.val_fraction, help="share of the images for validation; 0: none"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the split and of the empty tiles kept")
    parser.add_argument("--class-names", nargs="+", default=[], metavar="NAME", help="of class1.tif, class2.tif, ...")
    parser.add_argument(
        "--min-area", type=int, default=defaults.min_area, help="cells with fewer pixels in a tile are left out"
    )
    parser.add_argument(
        "--min-visible",
        type=float,
        default=defaults.min_visible,
        help="a cell cut by a tile's edge that keeps less than this share of its area is ignored (iscrowd 1)",
    )
    parser.add_argument(
        "--keep-empty",
        type=float,
        nargs="?",
        const=1.0,
        default=defaults.keep_empty,
        metavar="SHARE",
        help="keep tiles without a cell, all of them or a share",
    )
    parser.add_argument(
        "--intensity-rule",
        default=defaults.intensity_rule,
        help="how 16-bit and float images become 8 bit: percentile:LOW,HIGH of each image, or range:LOW,HIGH",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="run on this Dask cluster instead; its workers must see the same files under the same paths",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a sample that cannot be read: stop, or go on"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    options = ConvertOptions(
        tile_size=args.tile_size,
        overlap=args.overlap,
        val_fraction=args.val_fraction,
        seed=args.seed,
        class_names=tuple(args.class_names),
        min_area=args.min_area,
        min_visible=args.min_visible,
        keep_empty=args.keep_empty,
        intensity_rule=args.intensity_rule,
    )
    summary = convert(
        args.input,
        args.output,
        options,
        workers=args.workers,
        scheduler=args.scheduler,
        overwrite=args.overwrite,
        skip_errors=args.on_error == "skip",
    )
    for part, counts in summary["counts"].items():
        cells = ", ".join(f"{count} {name}" for name, count in counts.get("cells", {}).items())
        tiles = f", {counts['tiles']} tiles" if "tiles" in counts else ""
        print(f"{part}: {counts['images']} images{tiles}{': ' + cells if cells else ''}")
    for line in summary["skipped"]:
        print(f"skipped: {line}")
    print(f"dataset: {args.output}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
