"""Orders unlabelled images by what labelling them may gain: ranking.csv and a page, ranking.html, to look at them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.commands.cli import ToolParser, split_overrides
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.outputs import RANKING, claimed, output_folder


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__, epilog="Config keys follow at the end as KEY VALUE, such as MODEL.DEVICE cpu.")
    parser.add_argument(
        "--weights", required=True, metavar="CKPT", help="a checkpoint, or nuclei, the weights in this package"
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, or folders of them, also in folders below",
    )
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="the folder for the list")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier list in --output")
    parser.add_argument("--pictures", type=int, default=30, metavar="N", help="images to show on the page, the first")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_overrides(argv)
    args = build_parser().parse_args(options)
    if args.pictures < 0:
        raise CellSegError("--pictures is at least 0")
    with claimed(args.output, RANKING, may_hold=args.overwrite):
        run(args, overrides)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Predicts each image in its views, and writes the list."""
    from cellseg_d2.engine.run_config import prediction_cfg
    from cellseg_d2.files import write_csv
    from cellseg_d2.images.listing import list_images
    from cellseg_d2.inference.predictor import WholeImagePredictor
    from cellseg_d2.inference.ranking import expect
    from cellseg_d2.progress import track
    from cellseg_d2.report.ranking_page import COLUMNS, Ranked, best_first, rows_of, write_ranking_page

    images = list_images(args.input, None, args.output)
    cfg, opened = prediction_cfg(args.weights, "", overrides)
    predictor = WholeImagePredictor.from_cfg(cfg, opened)
    rule = predictor.pixel_rule
    ranked = best_first(
        [Ranked(image, expect(predictor, image.read(rule))) for image in track(images, len(images), "ranking")]
    )
    if args.overwrite:
        RANKING.remove(args.output)
    write_csv(args.output / "ranking.csv", COLUMNS, rows_of(ranked))
    about = f"{counted(len(ranked), 'image')}, ordered by what {Path(args.weights).name} is unsure of."
    write_ranking_page(args.output / "ranking.html", ranked, about, rule, predictor.channels, args.pictures)
    first = ranked[0]
    print(f"{counted(len(ranked), 'image')}; label {first.image.file_name} first (gain {first.expectation.gain:.2f})")
    print(f"ranking: {args.output / 'ranking.html'}")
