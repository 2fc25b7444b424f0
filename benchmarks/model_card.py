"""What a model card says of weights: AP, F1, PQ, AJI and accuracy on labelled test images, whatever the classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.table import Table
from cellseg_d2.cells.coco import Record, by_image, class_places, to_results
from cellseg_d2.cells.selection import Selection, suppress
from cellseg_d2.data.image_kinds import image_kind
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.cell_metrics import ACCURACY_NAMES
from cellseg_d2.evaluation.image_scores import image_scores, worst_first
from cellseg_d2.evaluation.judgement import CellJudgement, Judgement, judge_results
from cellseg_d2.files import read_json, whole_file
from cellseg_d2.images.listing import TEST_FOLDER, TEST_IDS, InputImage, find_test_images
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.progress import track
from cellseg_d2.report.comparison import compare, comparison_keys
from cellseg_d2.report.panels import image_panel
from cellseg_d2.report.sheet import draw_sheet
from cellseg_d2.weights.checkpoint import WeightsFile

TRUTH_FILE = "test_gt.json"

MAX_DETECTIONS = 1000
"""For AP, per image; ``evaluate`` has the same."""

KINDS = ("dark", "colour", "bright")
ACCURACY_SHOWN = ACCURACY_NAMES[:9]
"""At IoU 0.50 to 0.90."""

PICTURE_WIDTH = 800
COLOURS = 64
"""Of a picture's palette: with it a PNG takes a third."""


@dataclass(frozen=True)
class Prediction:
    """A test image, its pixels, and what was found in it.

    Attributes:
        image: file and id.
        pixels: (H, W, 3) uint8 RGB.
        results: COCO results of category 1.
    """

    image: InputImage
    pixels: NDArray[np.uint8]
    results: list[Record]


def report(
    data: Path,
    weights: str,
    pictures: Path | None = None,
    images: int = 2,
    precision: str = "float32",
    backend: str = "torch",
) -> str:
    """The tables as Markdown.

    Args:
        data: a folder with ``test_release/``, ``test_image_name_to_ids.json`` and ``test_gt.json``.
        weights: a checkpoint, or the name of published weights.
        pictures: a folder for pictures of the best and the worst images; None draws none.
        images: how many of each.
        precision: a value of CELLSEG.INFERENCE.PRECISION.
        backend: a value of CELLSEG.INFERENCE.BACKEND.

    Raises:
        CellSegError: a file is missing or of another form, or an image is not in the ground truth.
    """
    opened = WeightsFile.read(weights)
    cfg = opened.cfg()
    cfg.CELLSEG.INFERENCE.PRECISION, cfg.CELLSEG.INFERENCE.BACKEND = precision, backend
    predictor = WholeImagePredictor.from_cfg(cfg, opened)
    tests = find_test_images(data)
    if not tests:
        raise CellSegError(f"{data / TEST_FOLDER}: there is no such folder; put the test images there")
    truth = one_class(read_json(data / TRUTH_FILE))
    if unknown := sorted({test.id for test in tests} - {image["id"] for image in truth["images"]}):
        raise CellSegError(f"{data / TRUTH_FILE}: lists no image {unknown[0]}, which {data / TEST_IDS} does")
    predictions = [predict(predictor, test) for test in track(tests, len(tests), "prediction")]
    least = float(np.mean(list(predictor.selection().least.values())))
    whole = judge(truth, predictions, least)
    if pictures is not None:
        write_pictures(pictures, Path(weights).stem, truth, predictions, whole, images)
    parts = {"all": whole}
    kinds = [image_kind(own.pixels) for own in predictions]
    for kind in KINDS:
        if kind in kinds:
            chosen = [own for own, is_kind in zip(predictions, kinds) if is_kind == kind]
            parts[kind] = judge(truth, chosen, least)
    return f"{scores_table(parts, least).markdown()}\n{accuracy_table(parts).markdown()}"


def one_class(truth: Mapping[str, Any]) -> dict[str, Any]:
    """A COCO dataset whose cells are all of category 1, ``cell``."""
    cells = [{**cell, "category_id": 1} for cell in truth["annotations"]]
    return {**truth, "annotations": cells, "categories": [{"id": 1, "name": "cell"}]}


def predict(predictor: WholeImagePredictor, image: InputImage) -> Prediction:
    """The cells of one image, of a model of several classes each once."""
    pixels = image.read(predictor.pixel_rule)
    cells = predictor.predict(pixels)
    if len(predictor.class_names) > 1:
        cells = suppress(cells, method="hard", iou=predictor.cfg.CELLSEG.INFERENCE.SUPPRESSION_IOU)
    return Prediction(image, pixels, [{**result, "category_id": 1} for result in to_results(cells, image.id)])


def judge(truth: Mapping[str, Any], predictions: Sequence[Prediction], least: float) -> Judgement:
    """Scores these images alone."""
    ids = {own.image.id for own in predictions}
    results = [result for own in predictions for result in own.results]
    return judge_results(only(truth, ids), results, MAX_DETECTIONS, Selection(["cell"], least))


def only(truth: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """A COCO dataset of some of its images."""
    images = [image for image in truth["images"] if image["id"] in ids]
    return {**truth, "images": images, "annotations": [c for c in truth["annotations"] if c["image_id"] in ids]}


def scores_table(parts: Mapping[str, Judgement], least: float) -> Table:
    """AP and metrics of cells, by kind of image."""
    rows = []
    for kind, judgement in parts.items():
        cells = known(judgement)
        ap, summary, count = judgement.ap["segm"], cells.metrics.summary, len(cells.images)
        shown = [ap["AP"], ap["AP50"], ap["AP75"]]
        shown += [summary[name] for name in ("F1@0.50", "F1@0.70", "F1@0.90", "mPQ+", "AJI")]
        rows.append([kind, str(count), f"{summary['cells']:.0f}", *(f"{value:.1f}" for value in shown)])
    text = f"Mask AP of all detections; F1 at IoU 0.5, 0.7 and 0.9, PQ and AJI of those that score {least:.2f} or more."
    columns = ["images", "number", "cells", "AP", "AP50", "AP75", "F1 at 0.5", "0.7", "0.9", "PQ", "AJI"]
    return Table("Scores", text, columns, rows)


def accuracy_table(parts: Mapping[str, Judgement]) -> Table:
    """StarDist's accuracy by IoU, by kind of image."""
    rows = [
        [kind, *(f"{known(judgement).metrics.summary[name]:.1f}" for name in ACCURACY_SHOWN)]
        for kind, judgement in parts.items()
    ]
    text = "StarDist's accuracy, TP / (TP + FP + FN), of the same detections at each IoU."
    return Table("Accuracy", text, ["images", *(name.removeprefix("accuracy@") for name in ACCURACY_SHOWN)], rows)


def known(judgement: Judgement) -> CellJudgement:
    """The metrics of cells, which need masks on both sides.

    Raises:
        CellSegError: the ground truth has cells without a mask.
    """
    if judgement.cells is None:
        raise CellSegError(f"{TRUTH_FILE}: not every cell has a mask; add a segmentation to each")
    return judgement.cells


def write_pictures(
    folder: Path, name: str, truth: Mapping[str, Any], predictions: Sequence[Prediction], whole: Judgement, count: int
) -> None:
    """Writes ``NAME_best.png`` and ``NAME_worst.png``: images of the best and the worst F1, truth and prediction.

    Only images with cells are shown: an empty one has nothing to see.
    """
    cells = known(whole)
    scores = image_scores(cells)
    places = [place for place in worst_first(scores) if scores[place].cells]
    by_name = {own.image.path.name: own for own in predictions}
    truths, numbers = by_image(truth["annotations"]), class_places(truth)
    for kind, chosen in (("best", places[-count:][::-1]), ("worst", places[:count])):
        groups = []
        for place in chosen:
            own = by_name[Path(scores[place].name).name]
            found, path = own.results, str(own.image.path)
            panels = compare(own.pixels, truths[own.image.id], found, numbers, cells.selection, path)
            groups.append([image_panel(f"F1 {scores[place].f1:.0f}", own.pixels), *panels])
        sheet = draw_sheet(groups, comparison_keys(truth["categories"]), PICTURE_WIDTH)
        picture = Image.fromarray(sheet).quantize(COLOURS)
        with whole_file(folder / f"{name}_{kind}.png") as partial:
            picture.save(partial, format="PNG", optimize=True)
