"""A page on the quality of results: AP, metrics of cells, errors, and the worst and best images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.coco_input import read_pair
from cellseg_d2.cells.image_names import NamedImages
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.cell_metrics import ACCURACY_NAMES, F1_NAMES
from cellseg_d2.evaluation.coco_ap import AREAS, detection_cap, tasks_of
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.image_scores import ImageScore, image_scores, worst_first
from cellseg_d2.evaluation.judgement import CellJudgement, Judgement, judge_results
from cellseg_d2.evaluation.report_tables import (
    CONFUSION_TITLE,
    THRESHOLDS_TITLE,
    Table,
    class_table,
    confusion_table,
    error_table,
    least_text,
    number_text,
    summary_rows,
    threshold_table,
)
from cellseg_d2.export.marks import MISSED, SPURIOUS, mark_path
from cellseg_d2.export.overlay import class_hex
from cellseg_d2.export.record import selected_cells
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.report.evaluation_figures import curve_keys, error_figure, pr_figure
from cellseg_d2.report.gallery import ImageFiles, draw_gallery
from cellseg_d2.report.page import write_page

TASKS = {"segm": "mask", "bbox": "box"}

SHAPES = (0.75, 1.8)
"""The least and the greatest width by height of the frames of the gallery."""

TABLE_ROWS = 100
"""The most rows in the table of images."""

NOTES = {
    "mPQ+": "panoptic quality: matches pooled over all images, mean over classes (CoNIC)",
    "DQ": "its part for detection, mean over classes",
    "SQ": "its part for outlines: mean IoU of matches, mean over classes",
    "PQ_monusac": "PQ of each image and class that it has, mean over images (MoNuSAC)",
    "mPQ_pannuke": "the same, mean over the images of a tissue, then over tissues (PanNuke)",
    "bPQ_pannuke": "the same without classes",
    "AJI": "shared pixels by united pixels of cells and their best predictions, without classes",
    "AJI+": "the same, but no prediction is of two cells",
    "F1": "mean over IoUs of 0.50 to 0.95, and over classes",
    "detection_F1": "whether cells are found, whatever their class, at an IoU of 0.5",
    "detection_precision": "share of the predictions that found a cell",
    "detection_recall": "share of the cells that were found",
    "classification_accuracy": "share of the cells found that have the right class",
    "detection_IoU": "mean of the cells found",
    "cells": "found and missed ones, without crowds",
    "predictions": "with and without a cell, but for those on crowds",
    "hidden": "predictions that better ones hide, in none of the counts",
}


@dataclass(frozen=True)
class GalleryOptions:
    """The options of the page's gallery.

    Attributes:
        images: a folder or file of the images; None shows outlines alone.
        image_ids: the id file of ``images``; without it they are found by their names in the ground truth.
        count: number of pictures, half of them of the worst images and half of the best.
        max_side: larger pictures are reduced so that their larger side is this; None for never.
        rule: how images that are not 8 bit are scaled, and which channels are shown.

    Raises:
        CellSegError: a number is too small, or there is an id file without images.
    """

    images: Path | None = None
    image_ids: Path | None = None
    count: int = 12
    max_side: int | None = 1024
    rule: Rule = INTENSITY_RULE

    def __post_init__(self) -> None:
        if self.count < 0 or (self.max_side is not None and self.max_side < 1):
            raise CellSegError(
                f"a gallery of {self.count} images of {self.max_side} pixels cannot be made; "
                "give at least 0 images of at least 1 pixel"
            )
        if self.image_ids is not None and self.images is None:
            raise CellSegError(f"{self.image_ids}: is of images that were not given; give their folder too")


def write_evaluation_report(
    ground_truth: Path,
    predictions: Path,
    output: Path,
    gallery: GalleryOptions,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    only_predicted: bool = False,
) -> None:
    """Writes the page; where results or cells have no masks, it has only AP and says so.

    Args:
        ground_truth: a COCO dataset.
        predictions: COCO results, of this or any other tool.
        output: the HTML file.
        gallery: what is shown of the images.
        score_threshold: for the metrics of cells, the counts and the gallery, the least score of a prediction; None for
            what ``predict`` used, see :func:`cellseg_d2.export.record.selected_cells`.
        max_detections: for AP, precision by recall and errors: scored per image and class, the best first; None for
            1,000, or as many as the densest image has.
        only_predicted: see :func:`cellseg_d2.cells.coco_input.read_pair`.

    Raises:
        CellSegError: a file cannot be read or written, is of another form, or does not fit the others.
    """
    files = None if gallery.images is None else ImageFiles.find(gallery.images, gallery.image_ids, gallery.rule)
    truth, results = read_pair(ground_truth, predictions, only_predicted)
    named = NamedImages.beside(predictions)
    if files is not None and named is not None:
        files = files.renumbered(named.among(truth["images"], ground_truth).numbers)
    max_detections = detection_cap(truth, results, max_detections)
    selection = selected_cells(predictions, class_names(truth), score_threshold)
    judgement = judge_results(truth, results, max_detections, selection)
    content: dict[str, Any] = {"cells": None, "missing": _what_is_missing(judgement, results)}
    if judgement.cells is not None:
        content |= _cell_content(judgement.cells)
        content |= _image_content(judgement.cells, truth, results, gallery, files, max_detections)
    write_page(
        output,
        "evaluation.html.j2",
        title=f"Evaluation of {predictions.name}",
        ground_truth=ground_truth.name,
        predictions=predictions.name,
        image_count=len(truth["images"]),
        absent=0 if named is None else len(truth["images"]) - len(named.entries),
        only_predicted=only_predicted,
        cell_count=sum(not cell.get("iscrowd") for cell in truth["annotations"]),
        result_count=len(results),
        max_detections=max_detections,
        least=least_text(selection),
        headline=_headline(judgement),
        ap=ap_table(judgement.ap),
        class_ap=class_ap_table(judgement.ap, class_names(truth)),
        **content,
    )


def _ends(order: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Half of ``count`` items from the start, and the others from the end, the last one first; none twice."""
    count = min(count, len(order))
    half = (count + 1) // 2
    return list(order[:half]), list(order[::-1][: count - half])


def _what_is_missing(judgement: Judgement, results: Sequence[Mapping[str, Any]]) -> str:
    """Why the page has only AP; empty where it has more."""
    if judgement.cells is not None:
        return ""
    masked = "segm" in tasks_of(results)
    return "no cell of the ground truth has a mask" if masked else "no result has a mask"


def _headline(judgement: Judgement) -> list[tuple[str, str]]:
    """Names and values of the most important figures."""
    rows = [
        (f"{TASKS[task]} {name}", number_text(values[name]))
        for task, values in judgement.ap.items()
        for name in ("AP50", "AP")
    ]
    if judgement.cells is not None:
        summary = dict(summary_rows(judgement.cells))
        rows += [(name, summary[name]) for name in ("mPQ+", "F1@0.50", "AJI", "detection_F1")]
    return rows


def ap_table(ap: Mapping[str, Mapping[str, float]]) -> Table:
    """AP over all classes by task."""
    rows = [[name, *(number_text(values[name]) for values in ap.values())] for name in ("AP", "AP50", "AP75", *AREAS)]
    return ["all classes", *(TASKS[task] for task in ap)], rows


def class_ap_table(ap: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> Table:
    """AP per class and task."""
    columns = [(task, name) for task in ap for name in ("AP", "AP50")]
    rows = [[label, *(number_text(ap[task][f"{name}-{label}"]) for task, name in columns)] for label in names]
    return ["class", *(f"{TASKS[task]} {name}" for task, name in columns)], rows


def image_row(score: ImageScore) -> list[str]:
    """A row of the table of images."""
    counts = (score.cells, score.hit, score.missed, score.spurious)
    return [score.name, *(f"{count:,}" for count in counts), number_text(score.f1)]


def _cell_content(cells: CellJudgement) -> dict[str, Any]:
    """The parts of the page that need masks."""
    summary = dict(summary_rows(cells))
    header, rows = confusion_table(cells)
    heat = heat_of(cells.metrics.confusion.tolist())
    by_iou = {*F1_NAMES, *ACCURACY_NAMES}
    return {
        "cells": cells,
        "colors": [class_hex(number) for number in range(len(cells.class_names))],
        "summary": [(name, value, NOTES.get(name, "")) for name, value in summary.items() if name not in by_iou],
        "by_iou": (
            ["IoU of at least", *(name.removeprefix("F1@") for name in F1_NAMES)],
            [
                ["F1", *(summary[name] for name in F1_NAMES)],
                ["accuracy", *(summary[name] for name in ACCURACY_NAMES)],
            ],
        ),
        "classes": class_table(cells),
        "confusion_title": CONFUSION_TITLE,
        "confusion_header": header,
        "confusion": [(row[0], list(zip(row[1:], shades))) for row, shades in zip(rows, heat)],
        "thresholds_title": THRESHOLDS_TITLE,
        "thresholds": threshold_table(cells),
        "pr_figure": pr_figure(cells),
        "curve_keys": curve_keys(cells),
        "errors": error_table(cells),
        "ap50": number_text(cells.errors.ap50),
        "error_figure": error_figure(cells),
    }


def _image_content(
    cells: CellJudgement,
    truth: Mapping[str, Any],
    results: Sequence[Record],
    gallery: GalleryOptions,
    files: ImageFiles | None,
    max_detections: int,
) -> dict[str, Any]:
    """The table of images and the gallery."""
    scores = image_scores(cells)
    order = worst_first(scores)
    worst, best = _ends(order, gallery.count)
    ids = sorted({image["id"] for image in truth["images"]})  # the order of `scores`
    drawn = draw_gallery(
        truth,
        results,
        [ids[place] for place in worst + best],
        files=files,
        selection=cells.selection,
        max_detections=max_detections,
        max_side=gallery.max_side,
    )
    pictures = list(drawn)
    shapes = [picture.width / picture.height for picture in pictures]
    return {
        "images": [image_row(scores[place]) for place in order[:TABLE_ROWS]],
        "rated": len(order),
        "pictures": pictures,
        "shape": f"{np.clip(np.median(shapes), *SHAPES):.3f}" if shapes else "",  # so that all are equally high
        "marks": {kind: mark_path(kind, 13, 8, 5) for kind in (MISSED, SPURIOUS)},  # of the legend
        "worst": len(worst),
        "with_images": files is not None,
    }


def heat_of(confusion: Sequence[Sequence[int]]) -> list[list[str]]:
    """Background colours of a confusion matrix, stronger for larger shares of a row: blue if right, orange if wrong.

    They are translucent, so that text on them is readable in light and dark mode. The last corner, which counts
    nothing, has none.
    """
    last = len(confusion) - 1
    return [
        [
            ""
            if truth == found == last
            else f"rgba({'0,114,178' if truth == found else '213,94,0'},{0.6 * count / max(sum(row), 1):.2f})"
            for found, count in enumerate(row)
        ]
        for truth, row in enumerate(confusion)
    ]
