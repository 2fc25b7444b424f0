"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.rle import Rle
from cellseg_d2.cells.tiling import Window

Record = dict[str, Any]
Result = dict[str, Any]

MAX_COORDINATE = 10**6
"""The largest x and y of a polygon: pycocotools takes memory for every pixel along its edges, unchecked."""

AnyRecord = TypeVar("AnyRecord", bound=Mapping[str, Any])
AnyNumber = TypeVar("AnyNumber", bound=np.number[Any])


def by_image(records: Iterable[AnyRecord]) -> defaultdict[Any, list[AnyRecord]]:
    """COCO annotations or results by image id, in order; none for other ids."""
    found: defaultdict[Any, list[AnyRecord]] = defaultdict(list)
    for record in records:
        found[record["image_id"]].append(record)
    return found


def to_xywh(boxes: NDArray[AnyNumber]) -> NDArray[AnyNumber]:
    """(N, 4) boxes (x0, y0, x1, y1) as COCO has them: (x, y, width, height).

    >>> to_xywh(np.array([[2, 3, 5, 7]])).tolist()
    [[2, 3, 3, 4]]
    """
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def to_xyxy(boxes: NDArray[AnyNumber]) -> NDArray[AnyNumber]:
    """(N, 4) boxes (x, y, width, height) as (x0, y0, x1, y1), the way back from :func:`to_xywh`."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def annotate(layers: Sequence[LabelMap], window: Window, min_area: int = 0, min_visible: float = 0.0) -> list[Record]:
    """COCO annotations, without ids, of the cells in a window of an image's label maps.

    All windows of the same label maps together need one pass over the pixels.

    Args:
        layers: the full image's label maps.
        window: what to annotate, (x0, y0, x1, y1), half open; boxes and masks are in its frame.
        min_area: cells with fewer pixels in the window are left out.
        min_visible: a cell that keeps less than this share of its area becomes ``iscrowd: 1``, which COCO's evaluation
            neither rewards nor punishes.
    """
    annotations: list[Record] = []
    for layer in layers:
        ids, cells = layer.cells
        shown, numbers = cells.crop(window)
        crowd = layer.crowd | (shown.areas < min_visible * cells.areas[numbers])
        columns = (to_xywh(shown.boxes), shown.areas, crowd.astype(np.int64), ids[numbers])
        for bbox, area, ignored, label, rle in zip(*(column.tolist() for column in columns), shown.rles()):
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
        pairs = ((image["id"], cell) for image, cells in zip(numbered, annotations, strict=True) for cell in cells)
        content["annotations"] = [
            {"id": number, "image_id": image, **cell} for number, (image, cell) in enumerate(pairs, start=1)
        ]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    return content


def to_results(instances: CellInstances, image_id: int, bboxes: NDArray[np.float64] | None = None) -> list[Result]:
    """Cells of one image as COCO results; category id = class + 1.

    Args:
        instances: N cells.
        image_id: the image's id.
        bboxes: (N, 4) float64, (x, y, width, height), what the results state; if not given, tight around the masks.

    >>> to_results(CellInstances.empty((4, 4)), image_id=7)
    []
    """
    stated = to_xywh(instances.mask_boxes).astype(np.float64) if bboxes is None else bboxes
    return [
        {"image_id": image_id, "category_id": number + 1, "bbox": bbox, "score": round(score, 6), "segmentation": rle}
        for number, bbox, score, rle in zip(
            instances.classes.tolist(), stated.tolist(), instances.scores.tolist(), instances.rles()
        )
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
