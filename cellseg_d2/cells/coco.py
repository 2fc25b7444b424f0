"""COCO records of tiles and whole images, and the JSON files that hold them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap, LayeredCells
from cellseg_d2.cells.rle import Rle
from cellseg_d2.cells.tiling import Window

Record = dict[str, Any]
Result = dict[str, Any]

MAX_COORDINATE = 10**6
"""The largest x and y of a polygon, to either side."""

MAX_OUTLINE = 4 * 10**6
"""The most pixels along a cell's polygons: pycocotools takes some 100 bytes for each, unchecked."""

MAX_PIXELS = 2**32 - 1
"""The most pixels of an image: pycocotools and faster-coco-eval count in 32 bits, which overflow unnoticed."""

AnyRecord = TypeVar("AnyRecord", bound=Mapping[str, Any])
AnyNumber = TypeVar("AnyNumber", bound=np.number[Any])


def class_places(dataset: Mapping[str, Any]) -> dict[Any, int]:
    """Category id -> class number from 0, in the order of the ids."""
    return {number: place for place, number in enumerate(sorted(known["id"] for known in dataset["categories"]))}


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


def annotate(
    layers: Sequence[LabelMap] | LayeredCells, window: Window, min_area: int = 0, min_visible: float = 0.0
) -> list[Record]:
    """COCO annotations, without ids, of the cells in a window of an image's label maps.

    All windows of the same label maps together need one pass over the pixels.

    Args:
        layers: the full image's label maps; as :class:`LayeredCells` they are put together once for all windows.
        window: what to annotate, (x0, y0, x1, y1), half open; boxes and masks are in its frame.
        min_area: cells with fewer pixels in the window are left out.
        min_visible: a cell that keeps less than this share of its area becomes ``iscrowd: 1``, which COCO's evaluation
            neither rewards nor punishes.
    """
    cells = layers if isinstance(layers, LayeredCells) else LayeredCells.of(layers)
    shown, numbers = cells.runs.crop(window)
    crowd = cells.crowd[numbers] | (shown.areas < min_visible * cells.runs.areas[numbers])
    categories = [layer.categories for layer in cells.layers]
    columns = (to_xywh(shown.boxes), shown.areas, crowd.astype(np.int64), cells.labels[numbers], cells.layer[numbers])
    return [
        {"category_id": number, "bbox": bbox, "area": area, "iscrowd": ignored, "segmentation": rle, "label": label}
        for bbox, area, ignored, label, layer, rle in zip(*(column.tolist() for column in columns), shown.rles())
        if area >= min_area
        for number in categories[layer]
    ]


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
