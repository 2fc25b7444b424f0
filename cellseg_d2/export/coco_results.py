"""``test-results.json``: COCO results with compressed RLE masks, checked the way a grader would."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from cellseg_d2.data.rle import decode_runs
from cellseg_d2.errors import CellSegError
from cellseg_d2.instances import CellInstances

Result = dict[str, Any]


def to_results(instances: CellInstances, image_id: int) -> list[Result]:
    """Cells of one image as COCO results; category id = class + 1, boxes [x, y, w, h] tight around the mask.

    >>> to_results(CellInstances.empty((4, 4)), image_id=7)
    []
    """
    boxes = instances.mask_boxes
    return [
        {
            "image_id": image_id,
            "category_id": int(instances.classes[number]) + 1,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "score": round(float(instances.scores[number]), 6),
            "segmentation": rle,
        }
        for number, (rle, (x0, y0, x1, y1)) in enumerate(zip(instances.rles(), boxes))
    ]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(results, file, separators=(",", ":"))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_results(path: Path, sizes: Mapping[int, tuple[int, int]], class_count: int) -> int:
    """Reads a results file back with pycocotools and checks what a grader would refuse.

    Args:
        path: the file.
        sizes: image id -> (height, width).
        class_count: category ids are 1 .. class_count.

    Returns:
        The number of results.

    Raises:
        CellSegError: no such file, an unknown image or category, a mask that is not of its image's size or damaged, or
            a file that pycocotools does not load.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        for result in results:
            _check_result(result, sizes, class_count)
        if results:
            truth = COCO()
            truth.dataset = {
                "images": [{"id": number, "height": h, "width": w} for number, (h, w) in sizes.items()],
                "annotations": [],
                "categories": [{"id": number} for number in range(1, class_count + 1)],
            }
            with contextlib.redirect_stdout(io.StringIO()):
                truth.createIndex()
                truth.loadRes(str(path))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CellSegError(f"{path}: a grader would refuse it: {error}") from error
    return len(results)


def _check_result(result: Result, sizes: Mapping[int, tuple[int, int]], class_count: int) -> None:
    image_id = result["image_id"]
    if image_id not in sizes:
        raise ValueError(f"image id {image_id} is not among the images")
    if not 1 <= result["category_id"] <= class_count:
        raise ValueError(f"category id {result['category_id']} is not in 1..{class_count}")
    if tuple(result["segmentation"]["size"]) != tuple(sizes[image_id]):
        raise ValueError(f"a mask of image {image_id} is {result['segmentation']['size']}, the image {sizes[image_id]}")
    decode_runs([result["segmentation"]], sizes[image_id])
