"""Finds the cells in whole images of any size; writes test-results.json, and files for QuPath, ImageJ and others."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import cellseg_d2
from cellseg_d2.commands.cli import ToolParser, add_object_type, split_overrides
from cellseg_d2.errors import counted
from cellseg_d2.outputs import PREDICTION, check_free, claimed, output_folder

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cellseg_d2.images.listing import InputImage
    from cellseg_d2.inference.folder import Output, Summary
    from cellseg_d2.weights.checkpoint import WeightsFile

logger = logging.getLogger(__name__)

MOST_LISTED = 20
"""Images that were skipped are named at the end up to this number; skipped.json has all."""


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__, epilog="Config keys follow at the end as KEY VALUE, such as MODEL.DEVICE cpu.")
    parser.add_argument(
        "--weights",
        default="",
        metavar="CKPT",
        help="a checkpoint, which contains its config, or nuclei, the weights in this package",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="instead: a config, with MODEL.WEIGHTS PATH")
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, OME-Zarr folders, or folders of them, also in folders below",
    )
    parser.add_argument(
        "--region",
        type=Path,
        metavar="PATH",
        help="predict only there: GeoJSON annotations or a mask of the image's size; for several images a folder with "
        "<name>.geojson or a mask for each",
    )
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="the folder for results")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in --output")
    parser.add_argument(
        "--image-ids", type=Path, metavar="JSON", help='image ids for the results: [{"file_name", "id"}, ...]'
    )
    _add_network_options(parser)
    _add_result_options(parser)
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")
    return parser


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    """How images are read, cut into tiles and predicted."""
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="the least score in test-results.json (default: the config's, 0.05, which AP needs)",
    )
    parser.add_argument(
        "--tile-size", type=int, metavar="PX", help="largest side of a tile (default: the config's, 512)"
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="share of a tile that neighbours cover (default: the config's, 0.25)",
    )
    parser.add_argument(
        "--tta", action="store_true", help="predict each tile in several views: better, 8 times as slow"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="bfloat16 is faster on GPUs and CPUs that have it (default: the config's, float32)",
    )
    parser.add_argument(
        "--backend",
        choices=("torch", "openvino"),
        help="openvino is faster on CPUs and needs cellseg_d2[openvino] (default: the config's, torch)",
    )
    parser.add_argument("--skip-background", action="store_true", help="skip tiles that show nothing")
    parser.add_argument(
        "--channels",
        nargs="+",
        metavar="CHANNEL",
        help="the channels of the images that the model gets, in its order: names in the files, or numbers from 0 "
        "(default: the checkpoint's); one is enough for a model of RGB",
    )
    parser.add_argument(
        "--show-channels",
        nargs="+",
        metavar="CHANNEL",
        help="up to three of these, which overlays show as red, green and blue (default: the first three)",
    )
    parser.add_argument(
        "--pixel-size", type=float, metavar="UM", help="microns per pixel (default: what the files state)"
    )
    parser.add_argument("--rescale", action="store_true", help="resample images to the training data's pixel size")


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    """What is written, and by how many processes."""
    from cellseg_d2.export.formats import DEFAULT_FORMATS, FORMATS

    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(DEFAULT_FORMATS), help="what to write")
    add_object_type(parser)
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="the least score in counts and in all formats but coco "
        "(default: the checkpoint's, with the best F1 per class, else 0.5)",
    )
    parser.add_argument(
        "--thresholds", type=Path, metavar="JSON", help="the least score per class, as evaluate writes it"
    )
    parser.add_argument("--zip", action="store_true", help="also pack test-results.json as test-results.zip")
    parser.add_argument("--no-check", action="store_true", help="do not read test-results.json back with pycocotools")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="of an image that cannot be read: end, or go on without it and list it in skipped.json",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes that share the images and large images' tiles"
    )


def predict(cfg: CfgNode, opened: WeightsFile | None, images: Sequence[InputImage], output: Output) -> None:
    """Runs in each process."""
    from detectron2.utils import comm

    from cellseg_d2.commands.cli import configure_logging
    from cellseg_d2.inference.folder import predict_images
    from cellseg_d2.inference.predictor import WholeImagePredictor

    if comm.is_main_process():
        configure_logging()  # a process that was started anew has none
    predictor = WholeImagePredictor.from_cfg(cfg, opened)
    summary = predict_images(predictor, images, output)
    if summary is not None:
        _report(summary, output)
        least = predictor.selection(output.min_score, output.min_score_of_class).least
        print("least score: " + ", ".join(f"{name} {score:.2f}" for name, score in least.items()))


def _report(summary: Summary, output: Output) -> None:
    """Prints what was found, and says what was skipped."""
    from cellseg_d2.export.record import SKIPPED_FILE

    found = ", ".join(f"{count} {name}" for name, count in summary.counts.items())
    print(f"{counted(summary.images, 'image')}: {found}")
    if summary.region_percent is not None:
        whole = "the image" if summary.images == 1 else "all images together"
        print(f"region: {summary.region_percent:.3g} % of {whole}")
    print(f"results: {output.folder}")
    if summary.results is not None:
        print(f"test-results.json has {counted(summary.results, 'result')}, also those of low score, which AP needs")
    if summary.skipped:
        images = counted(len(summary.skipped), "image")
        logger.warning("%s could not be read and left out, see %s", images, output.folder / SKIPPED_FILE)
        for skipped in summary.skipped[:MOST_LISTED]:
            logger.warning("left out: %s", skipped.reason)
        if len(summary.skipped) > MOST_LISTED:
            logger.warning("and %d more", len(summary.skipped) - MOST_LISTED)


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_overrides(argv)
    args = build_parser().parse_args(options)
    from cellseg_d2.engine.run_folder import is_first
    from cellseg_d2.inference.folder import is_unfinished

    keys = {
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": args.score_threshold,
        "CELLSEG.INFERENCE.TILE_SIZE": args.tile_size,
        "CELLSEG.INFERENCE.OVERLAP": args.overlap,
        "CELLSEG.CHANNELS": args.channels,
        "CELLSEG.SHOWN_CHANNELS": args.show_channels,
        "CELLSEG.INFERENCE.PIXEL_SIZE_UM": args.pixel_size,
        "CELLSEG.INFERENCE.TTA.ENABLED": args.tta or None,
        "CELLSEG.INFERENCE.PRECISION": args.precision,
        "CELLSEG.INFERENCE.BACKEND": args.backend,
        "CELLSEG.INFERENCE.SKIP_BACKGROUND": args.skip_background or None,
        "CELLSEG.INFERENCE.RESCALE": args.rescale or None,
    }
    given = [text for key, value in keys.items() if value is not None for text in (key, str(value))]
    if args.config_file:
        cellseg_d2.setup()  # a config file's classes are those of its dataset; a checkpoint knows them
    may_hold = args.overwrite or is_unfinished(args.output)
    if not is_first(args):  # the first one claims it; where that is refused, the others are not to wait for it
        check_free(args.output, PREDICTION, may_hold=may_hold)
    with claimed(args.output, PREDICTION, may_hold=may_hold) if is_first(args) else nullcontext():
        run(args, [*given, *overrides])


def run(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Reads what is given, and predicts in as many processes as asked for."""
    from cellseg_d2.engine.launch import launch
    from cellseg_d2.engine.run_config import checked_processes, prediction_cfg
    from cellseg_d2.engine.run_folder import is_first
    from cellseg_d2.evaluation.thresholds import read_thresholds
    from cellseg_d2.images.listing import list_images
    from cellseg_d2.inference.folder import Output
    from cellseg_d2.inference.region import with_regions

    images = list_images(args.input, args.image_ids, args.output)
    images = with_regions(images, args.region) if args.region else images
    cfg, opened = prediction_cfg(args.weights, args.config_file, overrides)
    checked_processes(cfg, args)
    thresholds = read_thresholds(args.thresholds, cfg.CELLSEG.CLASS_NAMES) if args.thresholds else {}
    output = Output(
        args.output,
        tuple(args.formats),
        args.min_score,
        thresholds,
        pack=args.zip,
        check=not args.no_check,
        skip_errors=args.on_error == "skip",
        object_type=args.object_type,
    )
    if args.overwrite and is_first(args):
        PREDICTION.remove(args.output)
    alone = opened if args.num_gpus == 1 else None  # several processes read the file themselves
    launch(predict, args, cfg, alone, images, output, timeout=timedelta(days=1))  # images may differ much in size
