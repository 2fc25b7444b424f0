"""What scoring costs at cell density: faster-coco-eval against pycocotools, on the same detections."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.synthetic import dense_cells
from benchmarks.table import TIMING_COLUMNS, Table, ratio, timing_cells
from benchmarks.timing import time_in_turn
from cellseg_d2.cells.coco import Record, annotate, dataset
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.evaluation.coco_ap import average_precision

SIDE, CLASSES, SEED = 1500, 4, 42


def report(repeats: int = 3, images: int = 2, cells: int = 800, detections: int = 1000) -> str:
    """The benchmark's table as Markdown."""
    return benchmark_evaluate(repeats, images, cells, detections).markdown()


def benchmark_evaluate(repeats: int, images: int, cells: int, detections: int) -> Table:
    """Times mask AP of drawn images in both ways.

    Args:
        repeats: timed runs of each.
        images: how many.
        cells: cells per image.
        detections: detections per image: its cells moved by a few pixels, then random ones.
    """
    truth, results = draw(images, cells, detections)
    ours, theirs = (
        partial(average_precision, truth, results, "segm", detections),
        partial(score_with_pycocotools, truth, results, detections),
    )
    timings = time_in_turn({"this evaluator": ours, "pycocotools": theirs}, repeats, warm_up=False)
    base = timings["this evaluator"].median
    ap = f"{ours()['AP50']:.2f} and {theirs():.2f}"
    rows = [[name, *timing_cells(timing), ratio(timing.median, base)] for name, timing in timings.items()]
    text = (
        f"Mask AP of {images} images of {SIDE} x {SIDE} with {cells} cells in {CLASSES} classes and {detections} "
        f"detections each, all of them scored; AP50 {ap}. Ratios are of medians."
    )
    return Table("Evaluation", text, ["work", *TIMING_COLUMNS, "times this evaluator"], rows)


def draw(images: int, cells: int, detections: int) -> tuple[Record, list[Record]]:
    """A COCO dataset, and detections of its cells."""
    rng = np.random.default_rng(SEED)
    records, annotations, results = [], [], []
    for image_id in range(1, images + 1):
        _, maps = dense_cells(SIDE, cells, CLASSES, (8.0, 16.0), SEED + image_id)
        records.append({"id": image_id, "file_name": f"{image_id}.png", "height": SIDE, "width": SIDE})
        annotations.append(_annotate(maps))
        near, far = (_annotate([np.roll(labels, shift, (0, 1)) for labels in maps]) for shift in (2, 9))
        found = (near + far)[:detections]
        for cell in found:
            results.append(
                {
                    "image_id": image_id,
                    "category_id": cell["category_id"],
                    "segmentation": cell["segmentation"],
                    "score": float(rng.random()),
                }
            )
    return dataset(records, annotations, [f"class{number}" for number in range(1, CLASSES + 1)]), results


def _annotate(maps: list[Any]) -> list[Record]:
    layers = [LabelMap((number,), labels) for number, labels in enumerate(maps, start=1)]
    return annotate(layers, (0, 0, SIDE, SIDE))


def score_with_pycocotools(truth: Record, results: list[Record], detections: int) -> float:
    """AP50 in percent; from the precisions, since pycocotools' own summary is right for 100 detections only."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes([dict(result) for result in results]), "segm")
        evaluation.params.maxDets = [1, 10, detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(100 * precision[precision > -1].mean())
