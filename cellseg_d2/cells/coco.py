"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pycocotools import mask as mask_util

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import CellMeasures, LabelMap
from cellseg_d2.cells.rle import Rle, encode_label_map
from cellseg_d2.cells.tiling import Window

Record = dict[str, Any]

Result = dict[str, Any]
MAX_COORDINATE = 10**6
"""Of a polygon, to either side."""

MAX_OUTLINE = 4 * 10**6
"""Pixels along a cell's polygons: pycocotools takes some 100 bytes for each, unchecked."""

MAX_PIXELS = 2**32 - 1
"""Of an image: pycocotools and faster-coco-eval count in 32 bits, without a word where that overflows."""

AnyRecord = TypeVar("AnyRecord", bound=Mapping[str, Any])


def by_image(records: Iterable[AnyRecord]) -> defaultdict[Any, list[AnyRecord]]:
    """COCO annotations or results by image id, in order; none for other ids."""
    found: defaultdict[Any, list[AnyRecord]] = defaultdict(list)
    for record in records:
        found[record["image_id"]].append(record)
    return found


def annotate(
    layers: Sequence[LabelMap],
    window: Window,
    measures: Sequence[CellMeasures] | None = None,
    min_area: int = 0,
    min_visible: float = 0.0,
) -> list[Record]:
    """COCO annotations, without ids, of the cells in a window of an image's label maps.

    Args:
        layers: the full image's label maps.
        window: what to annotate, (x0, y0, x1, y1), half open; boxes and masks are in its frame.
        measures: measures of each label map's cells in the full image. With them ``min_visible`` is used, and all
            windows together need one pass over the pixels.
        min_area: cells with fewer pixels in the window are left out.
        min_visible: a cell that keeps less than this share of its area becomes ``iscrowd: 1``, which COCO's evaluation
            neither rewards nor punishes.
    """
    annotations: list[Record] = []
    x0, y0, x1, y1 = window
    for place, layer in enumerate(layers):
        if measures is None:
            cells = encode_label_map(layer.labels[y0:y1, x0:x1])
            whole = cells.areas
        else:
            cells, places = measures[place].encode(window)
            whole = measures[place].areas[places]
        crowd = layer.crowd | (cells.areas < min_visible * whole)
        boxes = np.concatenate([cells.boxes[:, :2], cells.boxes[:, 2:] - cells.boxes[:, :2]], axis=1)
        columns = (boxes, cells.areas, crowd.astype(np.int64), cells.ids)
        for bbox, area, ignored, label, rle in zip(*(column.tolist() for column in columns), cells.rles):
            if area >= min_area:
                cell = {"bbox": bbox, "area": area, "iscrowd": ignored, "segmentation": rle, "label": label}
                annotations += [{"category_id": number, **cell} for number in layer.categories]
    return annotations


def dataset(
    images: Sequence[Record], annotations: Sequence[Sequence[Record]] | None, class_names: Sequence[str]
) -> Record:
    """A COCO dataset with image ids (where an image has none) and annotation ids from 1 in the order given.

    Args:
        images: image records.
        annotations: one list an image; None for images whose cells are not known.
        class_names: names of the category ids 1, 2, ...
    """
    numbered = [{"id": number, **image} for number, image in enumerate(images, start=1)]
    content: Record = {"images": numbered}
    if annotations is not None:
        pairs = ((image["id"], own) for image, given in zip(numbered, annotations, strict=True) for own in given)
        content["annotations"] = [
            {"id": number, "image_id": image, **own} for number, (image, own) in enumerate(pairs, start=1)
        ]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    return content


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


def to_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A COCO segmentation, polygons, one flat polygon, or RLE of either form, as compressed RLE.

    Raises:
        ValueError, TypeError, KeyError, IndexError: it is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        polygons = segmentation if isinstance(next(iter(segmentation), None), list) else [segmentation]
        _check_polygons(polygons)
        _check_pixels(*size)
        rles = mask_util.frPyObjects(polygons, *size)
        rle = rles[0] if len(rles) == 1 else mask_util.merge(rles)
    elif isinstance(segmentation["counts"], list):
        _check_counts(segmentation["counts"], *segmentation["size"])
        rle = mask_util.frPyObjects(segmentation, *segmentation["size"])
    else:
        rle = segmentation
    counts = rle["counts"]
    if not isinstance(counts, (str, bytes)):
        raise ValueError("its counts are neither text nor a list")
    return {"size": list(rle["size"]), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def _check_polygons(polygons: list[Any]) -> None:
    """Refuses four numbers, which pycocotools takes for a box, and what it raises a bare Exception for."""
    bounds = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is a list of x and y of at least three points")
        if not set(map(type, polygon)) <= {int, float}:
            raise ValueError("a polygon's x and y are numbers")
        low, high = min(polygon), max(polygon)
        if not -MAX_COORDINATE <= low <= high <= MAX_COORDINATE or math.isnan(sum(polygon)):  # NaN compares False
            raise ValueError(f"a polygon's x and y are finite numbers of at most {MAX_COORDINATE}")
        bounds.append(len(polygon) / 2 * (high - low))
    if sum(bounds) > MAX_OUTLINE and sum(map(_outline, polygons)) > MAX_OUTLINE:
        raise ValueError(f"its outline is longer than {MAX_OUTLINE} pixels")


def _outline(polygon: list[float]) -> float:
    """The pixels that pycocotools sees along a polygon's edges."""
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum())


def _check_counts(counts: list[Any], height: int, width: int) -> None:
    _check_pixels(height, width)
    if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"its counts are not whole numbers from 0 that make the pixels of {height} x {width}")


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} has more pixels than the {MAX_PIXELS} that COCO can count")
