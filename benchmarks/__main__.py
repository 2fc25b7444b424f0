#!/usr/bin/env python
"""Measures the parts of the plugin and prints Markdown tables: ratios first, all of one run on one machine."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import convert
from cellseg_d2.commands.cli import ToolParser, run_tool
from cellseg_d2.errors import CellSegError

ACCURACY_SIDES = ("imagenet", "nuclei", "stardist", "torchvision")
SAMPLE = Path(__file__).resolve().parents[1] / "datasets" / "sample"


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART", parser_class=ToolParser)
    part = parts.add_parser("convert", help="conversion against the loop over cells, its floor and the number of cells")
    part.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help="input layout; default: the sample")
    add_common(part, run_convert)
    part = parts.add_parser(
        "mapper", help="a training sample as label maps against a list of masks, by number of cells"
    )
    add_common(part, run_mapper)
    part = parts.add_parser("evaluate", help="mask AP, metrics of cells, and reading COCO files against pycocotools")
    add_common(part, run_evaluate)
    part = parts.add_parser("tables", help="measuring all cells of an image at once against one by one")
    add_common(part, run_tables)
    part = parts.add_parser("train", help="a training step by number of cells against torchvision's Mask R-CNN")
    part.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    part.add_argument("--threads", type=positive, metavar="N", help="of torch, on both sides; default: torch's choice")
    part.add_argument("--profile", action="store_true", help="instead: shares of a CPU step's parts, ways to train")
    part.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help="of --profile; default: the sample")
    part.add_argument("--repeats", type=positive, default=10, metavar="N", help="of --profile: timed steps of each way")
    part.add_argument("--models", nargs="+", metavar="CONFIG", help="of --profile; default: laptop and finetune_nuclei")
    part.add_argument("--opts", nargs="+", default=(), metavar="KEY VALUE", help="of --profile: more config keys")
    add_common(part, run_train)
    part = parts.add_parser("stitch", help="putting tiles together against SAHI: time, memory, lost and doubled cells")
    part.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help="input layout; default: the sample")
    add_common(part, run_stitch)
    part = parts.add_parser("predict", help="whole images against SAHI with the same model: time and memory")
    part.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help="input layout; default: the sample")
    part.add_argument("--weights", default="", metavar="CKPT", help="default: the laptop model and known cells")
    part.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    part.add_argument("--large", action="store_true", help="also 8,192 x 8,192 pixels with 20,000 cells, for minutes")
    part.add_argument("--profile", action="store_true", help="instead: shares of the network's parts, ways to predict")
    part.add_argument("--memory", action="store_true", help="instead: the memory of 1,000 of PointRend's masks")
    part.add_argument("--cpu-time", action="store_true", help="of --profile: seconds of the CPU, for a busy machine")
    part.add_argument("--repeats", type=positive, default=3, metavar="N", help="of --profile: timed runs of each way")
    part.add_argument("--models", nargs="+", metavar="CONFIG", help="of --profile; default: laptop, R50 and X101")
    part.add_argument("--detections", nargs="+", type=positive, metavar="N", help="of --profile; default: 50 and 400")
    part.add_argument("--backends", nargs="+", choices=("torch", "openvino"), help="of --profile; default: both")
    add_common(part, run_predict)
    part = parts.add_parser(
        "slide", help="a whole slide with a model at no cost: memory, and time of all but the model"
    )
    part.add_argument("--side", type=positive, default=40_000, metavar="PX", help="the slide's side; default: 40000")
    add_common(part, run_slide)
    part = parts.add_parser("card", help="what a model card says of weights: AP, F1, PQ, AJI, accuracy, pictures")
    part.add_argument(
        "--data",
        type=Path,
        default=SAMPLE,
        metavar="PATH",
        help="test images and their ground truth, in the input layout; default: the sample",
    )
    part.add_argument("--weights", default="nuclei", metavar="CKPT", help="a checkpoint; default: nuclei")
    part.add_argument("--pictures", type=Path, metavar="DIR", help="draw the best and the worst images there")
    part.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="as of predict")
    part.add_argument("--backend", choices=("torch", "openvino"), default="torch", help="as of predict")
    add_common(part, run_card)
    part = parts.add_parser("accuracy", help="accuracy after the same processor time: StarDist 2D, torchvision, this")
    add_accuracy(part)
    add_common(part, run_accuracy)
    part = parts.add_parser("audit", help="how many planted label errors are at the top of the list of audit")
    part.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help="input layout; default: the sample")
    add_folder(part, "audit")
    add_common(part, run_audit)
    part = parts.add_parser("rank", help="AP50 after labelling images in the order of rank, and in random order")
    part.add_argument(
        "--data", type=Path, default=SAMPLE, metavar="PATH", help="input layout with test images; default: the sample"
    )
    add_folder(part, "rank")
    add_common(part, run_rank)
    return parser


def add_accuracy(part: argparse.ArgumentParser) -> None:
    """What the comparison of accuracies takes."""
    part.add_argument(
        "--data",
        type=Path,
        default=SAMPLE,
        metavar="PATH",
        help="labelled images, test images and their ground truth, in the input layout; default: the sample",
    )
    part.add_argument("--minutes", type=positive, default=20, metavar="N", help="of two cores, a training; default: 20")
    part.add_argument("--sides", nargs="+", choices=ACCURACY_SIDES, default=ACCURACY_SIDES, help="default: all")
    part.add_argument(
        "--work",
        type=Path,
        default=Path("output/accuracy"),
        metavar="DIR",
        help="sides that are done there with the same data and minutes are not run again; default: output/accuracy",
    )
    part.add_argument("--stardist", type=Path, metavar="PYTHON", help="default: the one of make bench-setup")


def add_folder(parser: argparse.ArgumentParser, name: str) -> None:
    """Where a part that trains keeps its models."""
    default = Path("output") / f"benchmark_{name}"
    text = "for models and results; one that was stopped goes on there (default: %(default)s)"
    parser.add_argument("--folder", type=Path, default=default, metavar="DIR", help=text)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def add_common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], str]) -> None:
    """What every part takes."""
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to this file as well")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once: tries the benchmark, measures nothing")


def run_convert(args: argparse.Namespace) -> str:
    return convert.report(args.data, convert.QUICK if args.quick else convert.Sizes())


def run_mapper(args: argparse.Namespace) -> str:
    from benchmarks import mapper

    return mapper.report(repeats=1, counts=(5, 9)) if args.quick else mapper.report()


def run_evaluate(args: argparse.Namespace) -> str:
    from benchmarks import cell_metrics, coco_input, evaluate

    if args.quick:
        ap = evaluate.report(repeats=1, images=1, cells=20, detections=30)
        metrics = cell_metrics.report(repeats=1, counts=(4, 9), images=1, cells=20)
        return f"{ap}\n{metrics}\n{coco_input.report(repeats=1, images=2, cells=20)}"
    return f"{evaluate.report()}\n{cell_metrics.report()}\n{coco_input.report()}"


def run_tables(args: argparse.Namespace) -> str:
    from benchmarks import cell_table

    return cell_table.report(repeats=1, counts=(5, 9)) if args.quick else cell_table.report()


def run_train(args: argparse.Namespace) -> str:
    from benchmarks import train, train_sides

    if args.profile:
        return profile_training(args)
    device = chosen_device(args.device)
    settings = train_sides.QUICK if args.quick else train_sides.FULL[device]
    return train.report(replace(settings, device=device, threads=args.threads))


def profile_training(args: argparse.Namespace) -> str:
    import torch

    from benchmarks import train_profile

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = train_profile.Settings(args.data, repeats=args.repeats, opts=tuple(args.opts))
    if args.models:
        settings = replace(settings, models=tuple(args.models))
    if args.quick:
        settings = replace(settings, models=settings.models[:1], repeats=1, opts=train_profile.QUICK)
    return train_profile.report(settings)


def run_stitch(args: argparse.Namespace) -> str:
    from benchmarks import stitch

    return stitch.report(args.data, stitch.QUICK if args.quick else stitch.Settings())


def run_predict(args: argparse.Namespace) -> str:
    from benchmarks import predict

    if args.profile or args.memory:
        return profile(args)
    settings = predict.QUICK if args.quick else predict.Settings()
    return predict.report(args.data, args.weights, chosen_device(args.device), args.large, settings)


def profile(args: argparse.Namespace) -> str:
    from benchmarks import predict_profile

    settings = predict_profile.QUICK if args.quick else replace(predict_profile.Settings(), repeats=args.repeats)
    if args.memory:
        return predict_profile.report_memory(settings)
    models, backends = args.models or settings.models, args.backends or settings.backends
    settings = replace(settings, models=tuple(models), backends=tuple(backends), cpu_time=args.cpu_time)
    settings = replace(settings, counts=tuple(args.detections or settings.counts))
    return predict_profile.report(settings)


def run_slide(args: argparse.Namespace) -> str:
    from benchmarks import slide

    return slide.report(slide.QUICK if args.quick else slide.Settings(side=args.side))


def run_card(args: argparse.Namespace) -> str:
    from benchmarks import model_card

    images = 1 if args.quick else 2
    return model_card.report(args.data, args.weights, args.pictures, images, args.precision, args.backend)


def run_accuracy(args: argparse.Namespace) -> str:
    from benchmarks.accuracy import report

    settings = report.QUICK if args.quick else report.Settings(minutes=args.minutes)
    return report.report(args.data, args.work, args.sides, settings, args.stardist or report.STARDIST)


def run_audit(args: argparse.Namespace) -> str:
    from benchmarks import audit

    return audit.report(args.data, args.folder, audit.QUICK if args.quick else audit.Settings())


def run_rank(args: argparse.Namespace) -> str:
    from benchmarks import rank_images

    return rank_images.report(args.data, args.folder, rank_images.QUICK if args.quick else rank_images.Settings())


def chosen_device(asked: str | None) -> str:
    """The device that was asked for, else CUDA where there is one."""
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise CellSegError("--device cuda, but there is no CUDA here")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    logging.getLogger("cellseg_d2").setLevel(logging.ERROR)  # conversions that are repeated repeat their notices
    text = args.run(args)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_tool(main))
