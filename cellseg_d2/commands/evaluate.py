"""Scores a COCO results file of any tool against a COCO ground truth: AP, metrics of cells, errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.commands.cli import ToolParser, add_score_threshold
from cellseg_d2.evaluation.coco_ap import detection_cap
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.evaluation.report_tables import text_of, write_files
from cellseg_d2.export.record import selected_cells
from cellseg_d2.outputs import EVALUATION, claimed, output_folder


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="GT.json")
    parser.add_argument("--predictions", type=Path, required=True, metavar="test-results.json")
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="for AP, per image and class, the best first (default: 1000, or as many as the densest image has)",
    )
    add_score_threshold(parser, "for PQ, AJI, F1 and counts")
    parser.add_argument(
        "--only-predicted", action="store_true", help="leave out images that were not predicted, by image_ids.json"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="DIR",
        help="also write metrics.json, thresholds.json and tables as .csv there",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in --output")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with claimed(args.output, EVALUATION, may_hold=args.overwrite) if args.output else nullcontext():
        truth, results = read_pair(args.ground_truth, args.predictions, args.only_predicted)
        max_detections = detection_cap(truth, results, args.max_detections)
        selection = selected_cells(args.predictions, class_names(truth), args.score_threshold)
        judgement = judge_results(truth, results, max_detections, selection)
        if args.output:  # first, since a reader such as head may leave in the middle of the table
            EVALUATION.remove(args.output)
            write_files(args.output, judgement, args.ground_truth, args.predictions)
        print(text_of(judgement))
