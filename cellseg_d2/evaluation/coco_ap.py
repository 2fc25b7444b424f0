"""COCO's average precision, right and fast at 1,000 detections per image.

Scored in C++ by faster-coco-eval. pycocotools' own summary is right for 100 detections only, and Detectron2 goes to
slow Python for any other number.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

DETECTIONS = 1000
"""Scored per image and class where no image has more; COCO's 100 are too few for cells."""

AREAS = {"APs": "small", "APm": "medium", "APl": "large"}


def average_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], task: str, max_detections: int
) -> dict[str, float]:
    """AP of detections against a COCO dataset, in percent; NaN where there is no ground truth.

    Args:
        ground_truth: a COCO dataset as :func:`cellseg_d2.cells.coco_input.read_truth` gives it; cells with
            ``iscrowd: 1`` neither reward nor punish.
        results: COCO results. Neither they nor the dataset are changed.
        task: ``segm`` or ``bbox``.
        max_detections: detections scored per image and class, the best first.

    Returns:
        AP (mean over IoU 0.50 to 0.95), AP50, AP75; APs, APm, APl by COCO's areas (32² and 96² px); and per class
        AP-NAME and AP50-NAME.

    Raises:
        CellSegError: a result is of an image that the ground truth does not have.
    """
    numbers = {image["id"]: number for number, image in enumerate(ground_truth["images"], start=1)}
    foreign = {result["image_id"] for result in results} - set(numbers)
    if foreign:
        raise CellSegError(f"results are of image {min(foreign)} and {len(foreign) - 1} others unknown to the truth")
    unwanted = "bbox" if task == "segm" else "segmentation"  # a mask's area, not its box's, decides small or large
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        # Copied, as the scorer adds keys; and it holds image ids in 64 bits.
        truth.dataset = {
            "info": {},
            **ground_truth,
            "images": [{**image, "id": numbers[image["id"]]} for image in ground_truth["images"]],
            "annotations": [{**cell, "image_id": numbers[cell["image_id"]]} for cell in ground_truth["annotations"]],
        }
        truth.createIndex()
        detections = truth.loadRes(
            [
                {
                    **{key: value for key, value in result.items() if key != unwanted},
                    "image_id": numbers[result["image_id"]],
                }
                for result in results
            ]
        )
        evaluation = COCOeval_faster(truth, detections, task, print_function=lambda *_: None)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])  # (IoU, recall, class, area, detections)
    labels = list(evaluation.params.areaRngLbl)
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    whole = precision[:, :, :, labels.index("all"), -1]
    metrics = {"AP": _mean(whole), "AP50": _mean(whole[0]), "AP75": _mean(whole[5])}
    metrics |= {name: _mean(precision[:, :, :, labels.index(label), -1]) for name, label in AREAS.items()}
    for number, category in enumerate(evaluation.params.catIds):
        metrics[f"AP-{names[category]}"] = _mean(whole[:, :, number])
        metrics[f"AP50-{names[category]}"] = _mean(whole[0, :, number])
    return metrics


def detection_cap(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], given: int | None = None
) -> int:
    """How many detections are scored per image and class.

    Args:
        ground_truth: as for :func:`average_precision`.
        results: as well.
        given: what the user asked for; a log line tells where an image has more cells. None for 1,000, or as many as
            any image has cells or results of a class.
    """
    cells, found = densest(ground_truth["annotations"]), densest(results)
    if given is None:
        return max(DETECTIONS, cells, found)
    if given < cells:
        logger.warning(
            "an image has %d cells of one class, of which %d detections cannot find all; give --max-detections %d, "
            "or leave it out",
            *(cells, given, cells),
        )
    return given


def densest(records: Sequence[Mapping[str, Any]]) -> int:
    """The most records that an image has of one class."""
    return max(Counter((record["image_id"], record["category_id"]) for record in records).values(), default=0)


def tasks_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """``segm`` if all results have masks, ``bbox`` if all have boxes.

    Raises:
        CellSegError: they have neither.
    """
    keys = {"segm": "segmentation", "bbox": "bbox"}
    tasks = [task for task, key in keys.items() if all(key in result for result in results)]
    if not tasks:
        raise CellSegError("not every result has a segmentation, nor every one a bbox")
    return tasks


def _mean(precision: np.ndarray[Any, Any]) -> float:
    """Mean over classes and areas that have ground truth, in percent; COCO marks the others with -1."""
    valid = precision[precision > -1]
    return float(100 * valid.mean()) if valid.size else float("nan")
