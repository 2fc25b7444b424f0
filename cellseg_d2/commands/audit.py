"""Lists labelled cells that a model contradicts, worst first: audit.csv, audit.html, and GeoJSON for QuPath."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellseg_d2.commands.cli import ToolParser, split_overrides
from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.outputs import AUDIT, claimed, output_folder

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cellseg_d2.conversion.untile import UntiledImage
    from cellseg_d2.evaluation.audit import AuditedImage

PARTS = ("train", "val")


@dataclass(frozen=True)
class Compared:
    """Labelled images with what a model says of them.

    Attributes:
        images: the images.
        class_names: the names of the classes that are compared.
        shown_channels: those that the page shows; empty for the first three, or for RGB.
    """

    images: Sequence[AuditedImage]
    class_names: list[str]
    shown_channels: Sequence[str]


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__, epilog="Config keys follow at the end as KEY VALUE, such as MODEL.DEVICE cpu.")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a converted dataset, as in datasets/NAME")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--weights",
        default="",
        metavar="CKPT",
        help="a checkpoint, or nuclei, the weights in this package",
    )
    model.add_argument(
        "--predictions",
        type=Path,
        metavar="RESULTS.json",
        help="instead: results for the whole images with their names beside them, such as those of models that were "
        "not trained on the image",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="of the dataset; a model has seen train"
    )
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="the folder for the list")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier audit in --output")
    parser.add_argument("--min-score", type=float, default=0.5, metavar="S", help="how sure the model is, at least")
    parser.add_argument("--ignore-classes", action="store_true", help="compare cells whatever their class")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="places to show on the page, the worst")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_overrides(argv)
    args = build_parser().parse_args(options)
    if not 0 <= args.min_score <= 1 or args.pictures < 0:
        raise CellSegError("--min-score is a number from 0 to 1, and --pictures at least 0")
    if overrides and args.predictions:
        raise CellSegError("config keys are for --weights; results are there already")
    with claimed(args.output, AUDIT, may_hold=args.overwrite):
        run(args, overrides)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Reads what is given, predicts, and writes the list."""
    from cellseg_d2.conversion.untile import untiled_images
    from cellseg_d2.data.catalog import datasets_root
    from cellseg_d2.evaluation.audit import doubts
    from cellseg_d2.export.audit_files import write_doubts_geojson, write_list
    from cellseg_d2.files import read_json
    from cellseg_d2.report.audit_page import write_audit_page

    folder = datasets_root() / args.dataset
    images = list(untiled_images(folder, args.parts))
    if not images:
        raise CellSegError(f"{folder}: has no labelled image in {' and '.join(args.parts)}; give other --parts")
    names = [str(name) for name in read_json(folder / "dataset.json")["class_names"]]
    compared = with_predictions(args, images, names) if args.predictions else predicted(args, overrides, images, names)
    audited, names = compared.images, compared.class_names
    found = doubts(audited, args.min_score)
    if args.overwrite:
        AUDIT.remove(args.output)
    source = args.predictions.name if args.predictions else Path(args.weights).name
    about = {"dataset": args.dataset, "model": source, "parts": args.parts, "min_score": args.min_score}
    write_list(args.output, found, names, {**about, "images": len(audited)})
    write_doubts_geojson(args.output / "geojson", found, names)
    count = sum(int((~one.truth.crowd).sum()) for one in audited)
    told = f"{counted(count, 'labelled cell')} of {counted(len(audited), 'image')} of {args.dataset}"
    sentence = f"{told}, compared with {source}."
    write_audit_page(args.output / "audit.html", found, names, sentence, args.pictures, compared.shown_channels)
    kinds = Counter(one.found.kind for one in found)
    print(f"{told}: {counted(len(found), 'doubt')}")
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing is doubtful")
    print(f"audit: {args.output / 'audit.html'}")


def with_predictions(args: argparse.Namespace, images: Sequence[UntiledImage], names: list[str]) -> Compared:
    """The images with results that are there; results with a record say which channels to show."""
    from cellseg_d2.evaluation.audit import AuditedImage, with_results
    from cellseg_d2.export.record import picture_rule

    pairs = with_results(images, args.predictions, len(names))
    audited = [AuditedImage.of(image, cells, not args.ignore_classes) for image, cells in pairs]
    shown = picture_rule(args.predictions).channels if images[0].channels else ()
    if not set(shown) <= set(images[0].channels):  # the files that were predicted call them otherwise
        shown = ()
    return Compared(audited, ["cell"] if args.ignore_classes else names, shown)


def predicted(
    args: argparse.Namespace, overrides: Sequence[str], images: Sequence[UntiledImage], names: list[str]
) -> Compared:
    """The images with what the model finds in them.

    Raises:
        CellSegError: the model has other channels than the dataset, or several classes that are not those of it.
    """
    from cellseg_d2.engine.run_config import prediction_cfg
    from cellseg_d2.evaluation.audit import AuditedImage
    from cellseg_d2.evaluation.overlap_table import Cells
    from cellseg_d2.inference.predictor import WholeImagePredictor
    from cellseg_d2.progress import track

    cfg, opened = prediction_cfg(args.weights, "", overrides)
    check_channels(cfg, args.weights, images[0].channels, "CELLSEG.CHANNELS" in overrides)
    known = list(cfg.CELLSEG.CLASS_NAMES)
    if len(known) > 1 and known != names and not args.ignore_classes:
        raise CellSegError(
            f"{args.weights}: has the classes {', '.join(known)}, the dataset {', '.join(names)}; give a model "
            "of these, or --ignore-classes"
        )
    use_classes = known == names and not args.ignore_classes
    predictor = WholeImagePredictor.from_cfg(cfg, opened)
    audited = []
    for image in track(images, len(images), "prediction"):
        cells = predictor.predict(image.read(predictor.channels.names))
        audited.append(AuditedImage.of(image, Cells.of(cells), use_classes))
    compared = names if use_classes else known if len(known) == 1 else ["cell"]
    return Compared(audited, compared, predictor.channels.shown or predictor.channels.names[:3])


def check_channels(cfg: CfgNode, weights: str, known: Sequence[str], are_named: bool) -> None:
    """Checks that a model sees the channels of a dataset.

    Args:
        cfg: the model's config.
        weights: the model's file, for the message.
        known: the dataset's channels; empty for RGB.
        are_named: whether the user names those for the model to read, which may be some of the dataset's.

    Raises:
        CellSegError: it has others, or the same in another order.
    """
    from cellseg_d2.data.channels import told

    wanted = list(cfg.CELLSEG.CHANNELS)
    if wanted == list(known) or (are_named and set(wanted) <= set(known)):
        return
    named = "; or name those that it is to read with CELLSEG.CHANNELS" if known else ""
    raise CellSegError(
        f"{weights}: takes {told(wanted)}, the images of the dataset have {told(known)}; give a model of these{named}"
    )
