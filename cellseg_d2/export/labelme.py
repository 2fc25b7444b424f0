"""LabelMe's JSON: one file an image, which LabelMe opens with the image."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.outlines import trace
from cellseg_d2.files import whole_file

VERSION = "5.5.0"
"""The form is that of LabelMe 5.2 on, which has masks."""


def write_labelme(path: Path, instances: CellInstances, class_names: Sequence[str], image_path: str) -> None:
    """Writes the cells as LabelMe's shapes, from which the very same pixels can be drawn again.

    A cell without a hole is a polygon for each of its parts, along the pixels' edges, see
    :func:`cellseg_d2.cells.outlines.trace`. LabelMe's polygons have no holes, so a cell with one is a ``mask``, which
    LabelMe shows, moves, relabels and deletes, but does not reshape. All shapes of a cell have its id, 1 .. N in the
    order of ``instances``, as their ``group_id``, and its ``score``, which LabelMe keeps.

    Args:
        path: the file, ``.json``.
        instances: cells with a pixel each.
        class_names: the names of class 0, 1, ...
        image_path: the image, as seen from the file's folder.

    Raises:
        CellSegError: the file cannot be written.
    """
    height, width = instances.image_size
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": list(_shapes(instances, class_names)),
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _shapes(instances: CellInstances, class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    scores = instances.stated_scores.tolist()
    for place, (mask, origin) in enumerate(zip(instances.masks, instances.origins)):
        shape = {
            "label": class_names[instances.classes[place]],
            "group_id": place + 1,
            "description": "",
            "flags": {},
            "score": scores[place],
        }
        polygons = trace(mask, origin)
        if any(len(polygon) > 1 for polygon in polygons):
            first, last = origin, origin + mask.shape[::-1] - np.array(1)  # the box's first and last pixel
            yield {**shape, "shape_type": "mask", "points": [first.tolist(), last.tolist()], "mask": _png(mask)}
            continue
        for outer, *_ in polygons:
            yield {**shape, "shape_type": "polygon", "points": outer.tolist(), "mask": None}


def _png(mask: NDArray[np.bool_]) -> str:
    return base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8))[1].tobytes()).decode("ascii")
