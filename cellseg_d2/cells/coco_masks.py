"""Segmentations of COCO records, of whatever form, as checked compressed RLE with areas and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.coco import to_rle
from cellseg_d2.cells.rle import Rle, boxes_of_runs
from cellseg_d2.cells.rle_text import parse
from cellseg_d2.errors import one_line, size_text, turned_text

Size = tuple[int, int]

PARSED_AT_ONCE = 4000
"""Masks; more at once would leave the processor's cache and take twice as long."""


@dataclass(frozen=True)
class Masks:
    """N masks.

    Attributes:
        rles: compressed RLEs; None where a record has no mask, or a damaged one.
        areas: (N,) int64, pixels.
        boxes: (N, 4) int64, [x, y, width, height], tight; zeros where there is no pixel.
        faults: what is wrong with a damaged mask, by its number.
    """

    rles: list[Rle | None]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]
    faults: dict[int, str]


def has_mask(segmentation: Any) -> bool:
    """Whether a record's segmentation says anything: ``null`` and ``[]`` do not."""
    return segmentation is not None and segmentation != []


def size_of(segmentation: Any) -> Size | None:
    """(height, width) that an RLE of either form states; None of other forms.

    >>> size_of({"size": [4, 5.0], "counts": "d0"}), size_of({"size": [4, -5]}), size_of([[0, 0, 4, 0, 4, 4]])
    ((4, 5), None, None)
    """
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(map(is_side, size)):
        return None
    return int(size[0]), int(size[1])


def is_side(value: Any) -> bool:
    """Whether a value is the height or width of an image: a whole number above 0 that 32 bits hold."""
    return type(value) in (int, float) and 0 < value < 2**31 and value == int(value)


def read_masks(segmentations: Sequence[Any], sizes: Sequence[Size | None]) -> Masks:
    """Reads and checks masks in time linear in their text, without painting any.

    Args:
        segmentations: polygons, one flat polygon, RLE of either form, or nothing.
        sizes: (height, width) of each one's image; None where that is unknown, which polygons cannot do with.
    """
    rles: list[Rle | None] = []
    faults: dict[int, str] = {}
    for place, (segmentation, size) in enumerate(zip(segmentations, sizes, strict=True)):
        rle, fault = _as_rle(segmentation, size) if has_mask(segmentation) else (None, "")
        rles.append(rle)
        if fault:
            faults[place] = fault
    areas, boxes = np.zeros(len(rles), np.int64), np.zeros((len(rles), 4), np.int64)
    there = np.array([place for place, rle in enumerate(rles) if rle is not None], np.int64)
    for first in range(0, len(there), PARSED_AT_ONCE):
        part = there[first : first + PARSED_AT_ONCE]
        compressed = [rle for rle in map(rles.__getitem__, part.tolist()) if rle is not None]
        areas[part], boxes[part], found = _measure(compressed)
        for number, fault in found.items():
            place = int(part[number])
            rles[place], faults[place] = None, f"has an RLE that {fault}"
    return Masks(rles, areas, boxes, faults)


def _as_rle(segmentation: Any, size: Size | None) -> tuple[Rle | None, str]:
    """A segmentation as a compressed RLE whose text is not checked yet, or what is wrong with it."""
    if isinstance(segmentation, dict):
        stated = size_of(segmentation)
        if stated is None:
            return None, "has an RLE whose size is not [height, width] in whole numbers above 0"
        if size is not None and stated != size:
            turned = turned_text(stated, size)
            return None, f"has a mask of {size_text(stated)}, but its image is {size_text(size)}{turned}"
        if isinstance(segmentation.get("counts"), str):
            return {"size": list(stated), "counts": segmentation["counts"]}, ""
        segmentation = {**segmentation, "size": list(stated)}
        size = stated
    elif not isinstance(segmentation, list):
        return None, "has a segmentation that is neither polygons nor an RLE"
    if size is None:
        return None, "has polygons, and nothing tells the height and width of its image; add them to the ground truth"
    try:
        return to_rle(segmentation, size), ""
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return None, f"has a damaged segmentation: {one_line(error)}"


def _measure(rles: Sequence[Rle]) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
    """Areas, boxes and faults of compressed RLEs, each of an image of its own size."""
    count = len(rles)
    sizes = [(rle["size"][0], rle["size"][1]) for rle in rles]
    parsed = parse([rle["counts"] for rle in rles], sizes)
    shown = (parsed.position % 2 == 1) & (parsed.counts > 0)
    index, lengths, stops = parsed.owner[shown], parsed.counts[shown], parsed.stops[shown]
    areas = np.bincount(index, weights=lengths, minlength=count).astype(np.int64)
    heights = np.array([0 if place in parsed.faults else height for place, (height, _) in enumerate(sizes)], np.int64)
    boxes = boxes_of_runs(index, stops - lengths, stops, heights[index], count)
    boxes[:, 2:] -= boxes[:, :2]
    return areas, boxes, parsed.faults
