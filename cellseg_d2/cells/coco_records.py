"""The records of a COCO file, annotations or results: their images, categories and masks, and what they are called."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cellseg_d2.cells.coco import Record
from cellseg_d2.cells.coco_ids import LARGEST_ID, Finder, is_id
from cellseg_d2.cells.coco_masks import Masks, Size, read_masks, size_of
from cellseg_d2.errors import CellSegError

LARGEST_NUMBER = 1e30
"""Of a result, or of a side of a box: what 32 bits hold."""

MANY_PIXELS, MOST_PIXELS, DEEPEST = 2**27, 2**30, 8
"""Of all masks of an image: up to the first always, up to the second if they are not many times those of the image."""

NAMED = 3
"""Records that a line names before it only counts."""

REPR = reprlib.Repr()
REPR.maxstring = REPR.maxlong = REPR.maxother = 60
REPR.maxlist = REPR.maxdict = 4
REPR.maxlevel = 2


@dataclass(frozen=True)
class Records:
    """The annotations or the results of a file, with the numbers of their images and categories.

    Attributes:
        path: the file.
        kind: ``annotation`` or ``result``.
        given: the records as the file has them.
        images, categories: each one's, as :class:`Ids` numbers them.
        masks: each one's.
    """

    path: Path
    kind: str
    given: list[Record]
    images: list[int]
    categories: list[int]
    masks: Masks

    def name(self, place: int) -> str:
        """What a record is called in messages."""
        return f"{self.kind} {place}, counted from 0, of image {short(self.given[place]['image_id'])}"

    def refuse(self, place: int, problem: str) -> NoReturn:
        """Raises CellSegError for a record."""
        raise CellSegError(f"{self.path}: {self.name(place)}, {problem}")

    def refuse_damaged(self) -> None:
        """Raises CellSegError for the first damaged mask."""
        for place in sorted(self.masks.faults)[:1]:
            self.refuse(place, self.masks.faults[place])

    def refuse_heaps(self, most: float) -> None:
        """Refuses masks that lie on each other in such heaps that comparing their pixels would take all memory.

        Args:
            most: pixels that all masks of an image may have together.

        Raises:
            CellSegError: an image has more, or many more than itself.
        """
        numbers = {image: place for place, image in enumerate(dict.fromkeys(self.images))}
        index = np.array([numbers[image] for image in self.images], np.int64)
        sums = np.bincount(index, weights=self.masks.areas)
        for image in np.flatnonzero(sums > MANY_PIXELS).tolist():
            places = np.flatnonzero((index == image) & (self.masks.areas > 0)).tolist()
            height, width = (self.masks.rles[places[0]] or {"size": (0, 0)})["size"]
            if sums[image] > min(most, DEEPEST * height * width):
                self.refuse(
                    places[0],
                    f"has a mask; those of that image have {int(sums[image])} pixels, and it is {height} x {width}: "
                    "remove what is there several times, or judge parts of it",
                )

    def several(self, places: Sequence[int]) -> str:
        """The first of some records by name, and how many more there are."""
        named = "; ".join(map(self.name, places[:NAMED]))
        return named + (f"; and {len(places) - NAMED} more" if len(places) > NAMED else "")


def number_records(
    path: Path,
    kind: str,
    given: Sequence[Any],
    image_ids: Finder,
    category_ids: Finder,
    size: Callable[[int], Size | None],
    listed_in: str,
) -> Records:
    """Records with the numbers of their images and categories, and their masks.

    Raises:
        CellSegError: one is no object, or of an image or category that is none, or that is not listed.
    """
    images, categories, segmentations = [], [], []
    for place, record in enumerate(given):
        if not isinstance(record, dict):
            raise CellSegError(f"{path}: {kind} {place}, counted from 0, is {short(record)}; write an object")
        image, category = image_ids.find(record.get("image_id")), category_ids.find(record.get("category_id"))
        if image is None or category is None:
            key = "image_id" if image is None else "category_id"
            what = f"has the {key} {short(record.get(key))}" if key in record else f"has no {key}"
            fix = f", which {listed_in} does not list" if is_id(record.get(key)) else "; write a whole number or text"
            raise CellSegError(f"{path}: {kind} {place}, counted from 0, {what}{fix}")
        images.append(image)
        categories.append(category)
        segmentations.append(record.get("segmentation"))
    masks = read_masks(segmentations, list(map(size, images)))
    return Records(path, kind, list(given), images, categories, masks)


def add_sizes(sizes: dict[int | None, Size], records: Iterable[Any], image_ids: Finder) -> None:
    """Adds the sizes that RLEs tell of images whose size is not known yet."""
    for record in records:
        if isinstance(record, dict):
            size = size_of(record.get("segmentation"))
            if size is not None:
                sizes.setdefault(image_ids.find(record.get("image_id")), size)


def box_of(records: Records, place: int, record: Record) -> list[float] | None:
    """A record's own box; None where it has none."""
    box = record.get("bbox")
    if box is None or box == []:
        return None
    numbers = isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float}
    if not numbers or not all(-LARGEST_NUMBER <= side <= LARGEST_NUMBER for side in box) or min(box[2:]) < 0:
        records.refuse(place, f"has the bbox {short(box)}; write [x, y, width, height], or leave it to the mask")
    return box


def is_utf8(text: str) -> bool:
    """Whether text can be written at all: JSON may hold half of a surrogate pair, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(value: Any) -> str:
    """A value of the file in messages: on one line, of a length that can be read."""
    text = REPR.repr(value)
    return text if is_utf8(text) else ascii(text)


def crowd_of(records: Records, place: int, record: Record) -> int:
    """1 for a region to ignore, else 0; ``iscrowd`` may be a number, its text, true or false, or nothing.

    Raises:
        CellSegError: it is something else.
    """
    value = record.get("iscrowd", 0)
    if isinstance(value, str):
        value = {"0": 0, "1": 1, "false": 0, "true": 1, "": 0}.get(value.strip().lower(), value)
    if value is not None and value not in (0, 1):
        records.refuse(place, f"has iscrowd {short(value)}; write 0 or 1")
    return int(value or 0)


def annotation_ids(records: Sequence[Record]) -> list[int]:
    """Their own where these are sound; else numbers from 1: scorers take an id of 0, or one twice, for no cell."""
    ids = [record.get("id") for record in records]
    sound = [number for number in ids if type(number) is int and 0 < number <= LARGEST_ID]
    return sound if len(set(sound)) == len(ids) else list(range(1, len(ids) + 1))
