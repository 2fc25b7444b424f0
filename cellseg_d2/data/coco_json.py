"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.data.rle import encode_label_map
from cellseg_d2.data.tiling import Window

Record = dict[str, Any]

LabelAreas = tuple[NDArray[np.integer[Any]], NDArray[np.int64]]
"""Ids (N,), ascending, and pixels (N,) of a label map's cells."""


def annotate(
    label_maps: Mapping[int, NDArray[np.int32]],
    window: Window,
    areas: Mapping[int, LabelAreas] | None = None,
    min_area: int = 0,
    min_visible: float = 0.0,
) -> list[Record]:
    """COCO annotations, without ids, of the cells in a window of an image's label maps.

    Args:
        label_maps: class number -> (H, W) int32 labels of the full image.
        window: what to annotate, (x0, y0, x1, y1), half open; boxes and masks are in its frame.
        areas: class number -> :func:`label_areas` of the full image, where ``min_visible`` is used.
        min_area: cells with fewer pixels in the window are left out.
        min_visible: a cell that keeps less than this share of its area becomes ``iscrowd: 1``, which COCO's evaluation
            neither rewards nor punishes.
    """
    x0, y0, x1, y1 = window
    annotations = []
    for number, label_map in sorted(label_maps.items()):
        cells = encode_label_map(label_map[y0:y1, x0:x1])
        whole = cells.areas
        if areas is not None:
            ids, pixels = areas[number]
            whole = pixels[np.searchsorted(ids, cells.ids)]
        crowd = cells.areas < min_visible * whole
        for cell in np.flatnonzero(cells.areas >= min_area):
            left, top, right, bottom = cells.boxes[cell].tolist()
            annotations.append(
                {
                    "category_id": number,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(cells.areas[cell]),
                    "iscrowd": int(crowd[cell]),
                    "segmentation": cells.rles[cell],
                    "label": int(cells.ids[cell]),
                }
            )
    return annotations


def label_areas(label_map: NDArray[np.int32]) -> LabelAreas:
    """The labels of a label map, ascending and without the background, and the pixels of each."""
    if (
        label_map.max(initial=0) > label_map.size
    ):  # counting is faster than sorting, but its memory follows the largest id
        ids, pixels = np.unique(label_map, return_counts=True)
        return ids[ids > 0], pixels[ids > 0]
    pixels = np.bincount(label_map.reshape(-1), minlength=1)
    ids = np.flatnonzero(pixels[1:]) + 1
    return ids, pixels[ids]


def dataset(
    images: Sequence[Record], annotations: Sequence[Sequence[Record]] | None, class_names: Sequence[str]
) -> Record:
    """A COCO dataset with image ids (where an image has none) and annotation ids from 1 in the order given.

    Args:
        images: image records.
        annotations: one list an image; None for images whose cells are not known.
        class_names: of the category ids 1, 2, ...
    """
    numbered = [{"id": number, **image} for number, image in enumerate(images, start=1)]
    content: Record = {"images": numbered}
    if annotations is not None:
        flat = [
            {"image_id": image["id"], **annotation}
            for image, own in zip(numbered, annotations, strict=True)
            for annotation in own
        ]
        content["annotations"] = [{"id": number, **annotation} for number, annotation in enumerate(flat, start=1)]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    return content


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes JSON as UTF-8, compact unless ``indent`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separators = (",", ":") if indent is None else None
    path.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")
