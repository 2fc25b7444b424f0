"""The parts of ``tools/benchmark.py``; a new one is a module with a ``report``, a function here, and a row of PARTS."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cellseg_d2.commands.cli import ToolParser, positive
from cellseg_d2.errors import CellSegError

SAMPLE = Path(__file__).resolve().parents[1] / "datasets" / "sample"

ACCURACY_SIDES = ("imagenet", "nuclei", "stardist", "torchvision")

SIZES = {
    "quick": "tiny sizes, once: tries the benchmark, measures nothing",
    "short": "fewer runs, sizes and models: ratios that mean something, in a minute or two",
}
"""Options that choose less than all that a part measures."""

Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
        help: a line on what it compares.
        run: measures, and gives the tables as Markdown; ``args.size`` is a key of SIZES, or "full".
        packages: whose versions its figures depend on; those that are not installed are not named.
        data: help for ``--data``; empty where a part has no data.
        options: adds what else it takes.
        in_all: arguments of each of its runs in the part ``all``.
        left_out: why it does not run there; empty where it does.
    """

    help: str
    run: Callable[[argparse.Namespace], str]
    packages: tuple[str, ...]
    data: str = ""
    options: Callable[[argparse.ArgumentParser], None] | None = None
    in_all: tuple[tuple[str, ...], ...] = ((),)
    left_out: str = ""


def add_part(parsers: argparse._SubParsersAction[ToolParser], name: str, part: Part) -> None:
    """Adds the parser of a part."""
    parser = parsers.add_parser(name, help=part.help)
    if part.data:
        add_data(parser, part.data)
    if part.options is not None:
        part.options(parser)
    add_common(parser)


def add_data(parser: argparse.ArgumentParser, text: str) -> None:
    """The option for the data."""
    parser.add_argument("--data", type=Path, default=SAMPLE, metavar="PATH", help=f"{text}; default: the sample")


def add_common(parser: argparse.ArgumentParser) -> None:
    """What every part takes."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to this file as well")
    sizes = parser.add_mutually_exclusive_group()
    parser.set_defaults(size="full")
    for size, text in SIZES.items():
        sizes.add_argument(f"--{size}", dest="size", action="store_const", const=size, help=text)


def sized(args: argparse.Namespace, full: Setting, short: Setting, quick: Setting) -> Setting:
    """The setting of the size that was asked for."""
    return {"full": full, "short": short, "quick": quick}[args.size]


def chosen_device(asked: str | None) -> str:
    """The device that was asked for, else CUDA where there is one."""
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise CellSegError("--device cuda, but there is no CUDA here")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _run_convert(args: argparse.Namespace) -> str:
    from benchmarks import convert

    sizes = sized(args, convert.Sizes(), convert.SHORT, convert.QUICK)
    return convert.report(args.data, replace(sizes, cpu_time=args.cpu_time))


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the CPU, for a busy machine")


def _run_mapper(args: argparse.Namespace) -> str:
    from benchmarks import mapper

    repeats, counts = sized(args, (15, mapper.COUNTS), (5, mapper.COUNTS), (1, (5, 9)))
    return mapper.report(repeats, counts)


def _run_evaluate(args: argparse.Namespace) -> str:
    from benchmarks import cell_metrics, coco_input, evaluate

    if args.size == "quick":
        ap = evaluate.report(repeats=1, images=1, cells=20, detections=30)
        metrics = cell_metrics.report(repeats=1, counts=(4, 9), images=1, cells=20)
        reading = coco_input.report(repeats=1, images=2, cells=20)
    elif args.size == "short":
        ap, metrics = evaluate.report(repeats=1), cell_metrics.report(repeats=6)
        reading = coco_input.report(repeats=1, images=25)
    else:
        ap, metrics, reading = evaluate.report(), cell_metrics.report(), coco_input.report()
    return f"{ap}\n{metrics}\n{reading}"


def _run_tables(args: argparse.Namespace) -> str:
    from benchmarks import cell_table

    repeats, counts, one_by_one = sized(args, (3, (700, 7_000, 70_000), 7_000), (3, (700, 7_000), 700), (1, (5, 9), 9))
    return cell_table.report(repeats, counts, one_by_one)


def _run_train(args: argparse.Namespace) -> str:
    from benchmarks import train, train_sides

    if args.profile:
        return _run_train_profile(args)
    device = chosen_device(args.device)
    settings = sized(args, train_sides.FULL[device], train_sides.SHORT, train_sides.QUICK)
    return train.report(replace(settings, device=device, threads=args.threads))


def _run_train_profile(args: argparse.Namespace) -> str:
    import torch

    from benchmarks import train_profile

    if args.threads:
        torch.set_num_threads(args.threads)
    full = train_profile.Settings(args.data)
    short = replace(full, models=full.models[:1], repeats=5)
    settings = sized(args, full, short, replace(short, repeats=1, opts=train_profile.QUICK))
    models, repeats = tuple(args.models or settings.models), args.repeats or settings.repeats
    return train_profile.report(replace(settings, models=models, repeats=repeats, opts=(*settings.opts, *args.opts)))


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of torch, on both sides; default: torch's choice"
    )
    parser.add_argument("--profile", action="store_true", help="instead: shares of a CPU step's parts, ways to train")
    parser.add_argument("--repeats", type=positive, metavar="N", help="of --profile: timed steps per way; default: 10")
    parser.add_argument("--models", nargs="+", metavar="CONFIG", help="of --profile; default: lite0, laptop_sgd")
    parser.add_argument("--opts", nargs="+", default=(), metavar="KEY VALUE", help="of --profile: more config keys")


def _run_stitch(args: argparse.Namespace) -> str:
    from benchmarks import stitch

    return stitch.report(args.data, sized(args, stitch.Settings(), stitch.SHORT, stitch.QUICK))


def _run_predict(args: argparse.Namespace) -> str:
    from benchmarks import predict

    if args.profile or args.memory:
        return _run_profile(args)
    settings = sized(args, predict.Settings(), predict.SHORT, predict.QUICK)
    return predict.report(args.data, args.weights, chosen_device(args.device), args.large, settings)


def _run_profile(args: argparse.Namespace) -> str:
    from benchmarks import predict_profile

    settings = sized(args, predict_profile.Settings(), predict_profile.SHORT, predict_profile.QUICK)
    settings = replace(settings, repeats=args.repeats or settings.repeats)
    if args.memory:
        return predict_profile.report_memory(settings)
    models, backends = args.models or settings.models, args.backends or settings.backends
    settings = replace(settings, models=tuple(models), backends=tuple(backends), cpu_time=args.cpu_time)
    settings = replace(settings, counts=tuple(args.detections or settings.counts))
    return predict_profile.report(settings)


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="", metavar="CKPT", help="default: the laptop model and known cells")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--large", action="store_true", help="also 8,192 x 8,192 pixels with 20,000 cells, for minutes")
    parser.add_argument(
        "--profile", action="store_true", help="instead: shares of the network's parts, ways to predict"
    )
    parser.add_argument("--memory", action="store_true", help="instead: the memory of 1,000 of PointRend's masks")
    parser.add_argument("--cpu-time", action="store_true", help="of --profile: seconds of the CPU, for a busy machine")
    parser.add_argument("--repeats", type=positive, metavar="N", help="of --profile: timed runs per way; default: 3")
    parser.add_argument("--models", nargs="+", metavar="CONFIG", help="of --profile; default: laptop, R50 and X101")
    parser.add_argument("--detections", nargs="+", type=positive, metavar="N", help="of --profile; default: 50 and 400")
    parser.add_argument("--backends", nargs="+", choices=("torch", "openvino"), help="of --profile; default: both")


def _run_slide(args: argparse.Namespace) -> str:
    from benchmarks import slide

    settings = sized(args, slide.Settings(), slide.SHORT, slide.QUICK)
    return slide.report(replace(settings, side=args.side or settings.side))


def _slide_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--side", type=positive, metavar="PX", help="the slide's side; default: 40000")


def _run_card(args: argparse.Namespace) -> str:
    from benchmarks import model_card

    images = 1 if args.size == "quick" else 2
    return model_card.report(args.data, args.weights, args.pictures, images, args.precision, args.backend)


def _card_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="nuclei", metavar="CKPT", help="a checkpoint; default: nuclei")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the best and the worst images there")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="as of predict")
    parser.add_argument("--backend", choices=("torch", "openvino"), default="torch", help="as of predict")


def _run_accuracy(args: argparse.Namespace) -> str:
    from benchmarks.accuracy import report

    settings = report.QUICK if args.size == "quick" else report.Settings(minutes=args.minutes)
    return report.report(args.data, args.work, args.sides, settings, args.stardist or report.STARDIST)


def _accuracy_options(parser: argparse.ArgumentParser) -> None:
    text = "of two cores, a training; default: 20"
    parser.add_argument("--minutes", type=positive, default=20, metavar="N", help=text)
    parser.add_argument("--sides", nargs="+", choices=ACCURACY_SIDES, default=ACCURACY_SIDES, help="default: all")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("output/accuracy"),
        metavar="DIR",
        help="sides that are done there with the same data and minutes are not run again; default: output/accuracy",
    )
    parser.add_argument("--stardist", type=Path, metavar="PYTHON", help="default: the one of make bench-setup")


def _run_audit(args: argparse.Namespace) -> str:
    from benchmarks import audit

    return audit.report(args.data, args.folder, audit.QUICK if args.size == "quick" else audit.Settings())


def _run_rank(args: argparse.Namespace) -> str:
    from benchmarks import rank_images

    settings = rank_images.QUICK if args.size == "quick" else rank_images.Settings()
    return rank_images.report(args.data, args.folder, settings)


def _folder_option(name: str) -> Callable[[argparse.ArgumentParser], None]:
    """Where a part that trains keeps its models."""

    def add(parser: argparse.ArgumentParser) -> None:
        default = Path("output") / f"benchmark_{name}"
        text = "for models and results; one that was stopped goes on there (default: %(default)s)"
        parser.add_argument("--folder", type=Path, default=default, metavar="DIR", help=text)

    return add


LAYOUT = "input layout"
TESTS = "test images and their ground truth, in the input layout"
TRAINS = "it trains models, which takes far longer than all others together"

PARTS = {
    "convert": Part(
        "conversion against the loop over cells, its floor and the number of cells",
        _run_convert,
        ("numpy", "scipy", "opencv-python-headless", "tifffile", "imagecodecs", "pycocotools"),
        LAYOUT,
        _convert_options,
        in_all=(("--cpu-time",),),
    ),
    "mapper": Part(
        "a training sample as label maps against a list of masks, by number of cells",
        _run_mapper,
        ("albumentations", "numpy", "torch"),
    ),
    "evaluate": Part(
        "mask AP, metrics of cells, and reading COCO files against pycocotools",
        _run_evaluate,
        ("faster-coco-eval", "pycocotools", "numpy"),
    ),
    "tables": Part(
        "measuring all cells of an image at once against one by one", _run_tables, ("numpy", "shapely", "scikit-image")
    ),
    "train": Part(
        "a training step by number of cells against torchvision's Mask R-CNN",
        _run_train,
        ("torch", "torchvision", "sal-detectron2"),
        f"of --profile: {LAYOUT}",
        _train_options,
        in_all=((), ("--profile",)),
    ),
    "stitch": Part(
        "putting tiles together against SAHI: time, memory, lost and doubled cells",
        _run_stitch,
        ("numpy", "scipy", "shapely", "torch"),
        LAYOUT,
    ),
    "predict": Part(
        "whole images against SAHI with the same model: time and memory",
        _run_predict,
        ("numpy", "torch", "sal-detectron2", "openvino"),
        LAYOUT,
        _predict_options,
        in_all=((), ("--profile", "--cpu-time")),
    ),
    "slide": Part(
        "a whole slide with a model at no cost: memory, and time of all but the model",
        _run_slide,
        ("numpy", "tifffile", "torch"),
        options=_slide_options,
    ),
    "card": Part(
        "what a model card says of weights: AP, F1, PQ, AJI, accuracy, pictures",
        _run_card,
        ("numpy", "torch", "sal-detectron2", "openvino"),
        TESTS,
        _card_options,
    ),
    "accuracy": Part(
        "accuracy after the same processor time: StarDist 2D, torchvision, this",
        _run_accuracy,
        ("numpy", "torch", "torchvision", "sal-detectron2"),
        f"labelled images, {TESTS}",
        _accuracy_options,
        left_out=TRAINS,
    ),
    "audit": Part(
        "how many planted label errors are at the top of the list of audit",
        _run_audit,
        ("numpy", "torch", "sal-detectron2"),
        LAYOUT,
        _folder_option("audit"),
        left_out=TRAINS,
    ),
    "rank": Part(
        "AP50 after labelling images in the order of rank, and in random order",
        _run_rank,
        ("numpy", "torch", "sal-detectron2"),
        f"{LAYOUT} with test images",
        _folder_option("rank"),
        left_out=TRAINS,
    ),
}
"""All parts by name, in the order in which ``all`` runs them."""
