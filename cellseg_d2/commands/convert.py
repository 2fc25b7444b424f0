"""Converts per-class label TIFFs to a tiled COCO dataset that Detectron2 trains on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cellseg_d2
from cellseg_d2.annotations.readers import READERS
from cellseg_d2.cells.coco import Record
from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.conversion.add import add_images
from cellseg_d2.conversion.check import check, render
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.suggestions import to_yaml
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.files import whole_file
from cellseg_d2.outputs import output_file, output_folder

BASE = "mask_rcnn_X_101_32x8d_FPN"


def _formats() -> str:
    return "; ".join(f"{reader.name}: {reader.description}" for reader in READERS.values())


def build_parser() -> argparse.ArgumentParser:
    defaults = ConvertOptions()
    parser = ToolParser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="the folder of images and annotations, see --format")
    parser.add_argument(
        "--output", type=output_folder, help="the dataset's folder, such as datasets/NAME; not needed with --check"
    )
    parser.add_argument(
        "--add-to",
        type=output_folder,
        metavar="DATASET",
        help="instead of --output: add the images to this dataset, with its options; those that it has are replaced",
    )
    _add_tile_options(parser, defaults)
    _add_reading_options(parser, defaults)
    _add_run_options(parser, defaults)
    return parser


def _add_tile_options(parser: argparse.ArgumentParser, defaults: ConvertOptions) -> None:
    """How images are split and cut, and which cells and tiles are kept."""
    parser.add_argument("--tile-size", type=int, default=defaults.tile_size, help="largest side of a tile in pixels")
    parser.add_argument("--overlap", type=float, default=defaults.overlap, help="share of a tile that neighbours cover")
    parser.add_argument(
        "--val-fraction", type=float, default=defaults.val_fraction, help="share of the images for validation; 0: none"
    )
    parser.add_argument(
        "--folds", type=int, default=defaults.folds, metavar="K", help="also make K folds of all images, for crossval"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="random seed for the split and for which empty tiles are kept"
    )
    parser.add_argument(
        "--class-names", nargs="+", default=[], metavar="NAME", help="names of class1.tif, class2.tif, ..."
    )
    parser.add_argument("--merge-classes", default="", metavar="NAME", help="make all classes one class of this name")
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


def _add_reading_options(parser: argparse.ArgumentParser, defaults: ConvertOptions) -> None:
    """How files are read."""
    parser.add_argument(
        "--intensity-rule",
        default=defaults.intensity_rule,
        help="how 16-bit and float images become 8 bit: percentile:LOW,HIGH of each image, or range:LOW,HIGH; with "
        "--channels also a range per channel, range:LOW,HIGH/LOW,HIGH",
    )
    parser.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="the channels of the images to train on, in this order: names in the files, or numbers from 0 "
        "(default: grey or RGB as the files are)",
    )
    parser.add_argument("--split-blobs", action="store_true", help="parts of a cell that do not touch become cells")
    parser.add_argument("--split", type=Path, metavar="CSV", help="your split: id,split[,group]; train or val")
    parser.add_argument(
        "--format",
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"format of the annotations (default: guessed). {_formats()}",
    )
    parser.add_argument(
        "--from-coco", type=Path, metavar="GT.json", help="tile a COCO dataset of whole images; --input is their folder"
    )


def _add_run_options(parser: argparse.ArgumentParser, defaults: ConvertOptions) -> None:
    """How much is done, and what happens where it cannot be done."""
    parser.add_argument(
        "--max-pixels", type=int, default=defaults.max_pixels, help="larger images are refused from their header"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="run on this Dask cluster instead; its workers must see the same files under the same paths",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    parser.add_argument(
        "--check",
        action="store_true",
        help="convert nothing: report what is in the input, what is wrong, and which settings suit it",
    )
    parser.add_argument(
        "--suggest", type=output_file, metavar="FILE", help="with --check: write those settings to this YAML"
    )
    parser.add_argument(
        "--base", default=BASE, metavar="CONFIG", help="with --check: the config that the settings extend"
    )
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a sample that cannot be read: stop, or skip it"
    )


def given_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """The fields of ConvertOptions that are on the command line, also those that are given their default."""
    names = [field.name for field in fields(ConvertOptions)]
    parsed = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names))))
    return {name: parsed[name] for name in names if parsed[name] is not None}


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.output is None and args.add_to is None and not args.check:
        parser.error("the following arguments are required: --output")
    if args.suggest is not None and not args.check:
        parser.error("--suggest comes with --check")
    if args.add_to is not None and (args.output is not None or args.overwrite or args.check):
        parser.error("--add-to names the dataset and stands without --output, --overwrite and --check")
    how: dict[str, Any] = {
        "workers": args.workers,
        "scheduler": args.scheduler,
        "skip_errors": args.on_error == "skip",
        "split_file": args.split,
        "from_coco": args.from_coco,
        "annotation_format": args.format,
    }
    if args.add_to is not None:
        return report(add_images(args.input, args.add_to, given_options(parser, argv), **how), args.add_to)
    options = ConvertOptions(
        tile_size=args.tile_size,
        overlap=args.overlap,
        val_fraction=args.val_fraction,
        seed=args.seed,
        class_names=tuple(args.class_names),
        merge_classes=args.merge_classes,
        min_area=args.min_area,
        min_visible=args.min_visible,
        keep_empty=args.keep_empty,
        intensity_rule=args.intensity_rule,
        split_blobs=args.split_blobs,
        max_pixels=args.max_pixels,
        channels=tuple(args.channels),
        folds=args.folds,
    )
    if args.check:
        return run_check(args, options)
    report(convert(args.input, args.output, options, overwrite=args.overwrite, **how), args.output)


def report(summary: Record, output: Path) -> None:
    """Prints what is in a dataset."""
    for part, counts in summary["counts"].items():
        cells = ", ".join(f"{count} {name}" for name, count in counts.get("cells", {}).items())
        tiles = f", {counted(counts['tiles'], 'tile')}" if "tiles" in counts else ""
        print(f"{part}: {counted(counts['images'], 'image')}{tiles}{': ' + cells if cells else ''}")
    if folds := summary.get("folds"):
        print("folds: " + ", ".join(counted(len(fold["val"]), "image") for fold in folds))
    for line in summary["skipped"]:
        print(f"skipped: {line}")
    print(f"dataset: {output}")


def run_check(args: argparse.Namespace, options: ConvertOptions) -> None:
    base = find_base(args.base)
    found = check(
        args.input,
        options,
        workers=args.workers,
        scheduler=args.scheduler,
        from_coco=args.from_coco,
        annotation_format=args.format,
    )
    print(render(found, str(base)), end="")
    if args.suggest is not None and found.suggestions:
        with whole_file(args.suggest) as partial:
            partial.write_text(to_yaml(found.suggestions, str(base)), encoding="utf-8")
        print(f"settings: {args.suggest}")
    if problems := found.summary["problems"]:
        raise CellSegError(
            f"{args.input}: {len(problems)} of its files cannot be used, see the report; fix or remove them"
        )


def find_base(name: str) -> Path:
    """The config's absolute path, found without Detectron2, so that a check needs no installation of it."""
    package = Path(cellseg_d2.__file__).resolve().parent
    places = [Path(name), *(folder / f"{name}.yaml" for folder in (package / "configs", package.parent / "configs"))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CellSegError(f"{name}: there is no such config; give a file, or a name such as {BASE}")
    return found.resolve()
