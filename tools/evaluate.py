#!/usr/bin/env python
"""Scores a COCO results file, of this or any other tool, against a COCO ground truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.cli import ToolParser, run_tool
from cellseg_d2.data.coco_json import write_json
from cellseg_d2.evaluation.coco_ap import score_files


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="GT.json")
    parser.add_argument("--predictions", type=Path, required=True, metavar="test-results.json")
    parser.add_argument("--max-detections", type=int, default=1000, help="scored per image and class, the best first")
    parser.add_argument("--output", type=Path, metavar="DIR", help="also write the numbers to DIR/metrics.json")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    metrics = score_files(args.ground_truth, args.predictions, args.max_detections)
    print(f"{'':24}" + "".join(f"{task:>8}" for task in metrics))
    for name in next(iter(metrics.values())):
        print(f"{name:24}" + "".join(f"{values[name]:8.2f}" for values in metrics.values()))
    if args.output:
        write_json(args.output / "metrics.json", metrics, indent=1)


if __name__ == "__main__":
    sys.exit(run_tool(main))
