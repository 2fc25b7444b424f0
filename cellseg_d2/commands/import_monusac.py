"""Writes MoNuSAC's published files as label TIFFs, the input layout of convert, with ambiguous regions to ignore.

"convert --format monusac" reads MoNuSAC directly; this command is for tools that read label TIFFs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.annotations.monusac import CLASS_NAMES, PATIENTS_FILE, class_counts, import_monusac
from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.errors import counted
from cellseg_d2.outputs import output_folder


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--input", type=Path, required=True, help="MoNuSAC's folder: one folder per slide, SVS or TIFF + XML"
    )
    parser.add_argument(
        "--output", type=output_folder, required=True, help="the folder to make, the --input of convert"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the result of an earlier import")
    parser.add_argument(
        "--unknown", choices=("stop", "ambiguous"), default="stop", help="at outlines of a class that MoNuSAC lacks"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    done = import_monusac(
        args.input, args.output, overwrite=args.overwrite, unknown_is_ambiguous=args.unknown == "ambiguous"
    )
    print(f"{counted(done.images, 'image')} of {counted(done.patients, 'patient')}: {class_counts(done.outlines)}")
    print(
        f"next: cellseg-d2 convert --input {args.output} --split {args.output / PATIENTS_FILE} "
        f"--class-names {' '.join(CLASS_NAMES)} --output datasets/monusac"
    )
