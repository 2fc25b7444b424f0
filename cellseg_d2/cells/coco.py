"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

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
"""Of a polygon: pycocotools takes memory for every pixel along its edges, unchecked."""

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
    """A COCO segmentation, polygons or RLE of either form, as compressed RLE.

    Raises:
        ValueError, TypeError, KeyError, IndexError: it is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, *segmentation["size"])
    else:
        rle = segmentation
    counts = rle["counts"]
    if not isinstance(counts, (str, bytes)):
        raise ValueError("its counts are neither text nor a list")
    return {"size": list(rle["size"]), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def _check_polygons(polygons: list[Any]) -> None:
    """Refuses four numbers, which pycocotools takes for a box, and what it raises a bare Exception for."""
    if not polygons:
        raise ValueError("it has no polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is a list of x and y of at least three points")
        for number in polygon:
            if not isinstance(number, (int, float)) or not abs(number) <= MAX_COORDINATE:  # NaN compares False
                raise ValueError(f"a polygon's x and y are finite numbers of at most {MAX_COORDINATE}")
