"""The labels of a dataset against a model: its images with their predictions, and all contradictions by rank."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.cells.coco import Record, by_image, to_rle
from cellseg_d2.cells.coco_input import read_results
from cellseg_d2.cells.image_names import NamedImages
from cellseg_d2.cells.tiling import Window
from cellseg_d2.conversion.untile import UntiledImage
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.contradictions import Contradiction, contradictions
from cellseg_d2.evaluation.overlap_table import Cells

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditedImage:
    """A labelled image and what a model says of it.

    Attributes:
        image: where its pixels are, its name and part.
        truth, predictions: its labelled cells and the model's.
    """

    image: UntiledImage
    truth: Cells
    predictions: Cells

    @classmethod
    def of(cls, image: UntiledImage, predictions: Cells, use_classes: bool = True) -> AuditedImage:
        """An image with predictions for it; without ``use_classes`` all cells are as if of class 0."""
        truth = Cells.from_runs(image.runs, image.classes, crowd=image.crowd)
        if use_classes:
            return cls(image, truth, predictions)
        truth, predictions = (replace(cells, classes=np.zeros_like(cells.classes)) for cells in (truth, predictions))
        return cls(image, truth, predictions)


@dataclass(frozen=True)
class Doubt:
    """An entry of the list.

    Attributes:
        rank: 1 is the worst.
        audited: its image.
        found: what is contradicted.
    """

    rank: int
    audited: AuditedImage
    found: Contradiction

    @property
    def proposal(self) -> Cells:
        """What the model would put there; for ``spurious`` the labelled cell, which it would take away."""
        if self.found.kind == "spurious":
            return self.audited.truth.pick(np.array(self.found.cells))
        return self.audited.predictions.pick(np.array(self.found.predictions))

    @property
    def box(self) -> Window:
        """Where it is, (x0, y0, x1, y1), half open, in pixels of the image: all cells and predictions that it is of."""
        parts = [
            cells.runs.boxes[list(numbers)]
            for cells, numbers in (
                (self.audited.truth, self.found.cells),
                (self.audited.predictions, self.found.predictions),
            )
            if numbers
        ]
        boxes = np.concatenate(parts)
        x0, y0 = boxes[:, :2].min(axis=0).tolist()
        x1, y1 = boxes[:, 2:].max(axis=0).tolist()
        return x0, y0, x1, y1


def doubts(images: Sequence[AuditedImage], min_score: float) -> list[Doubt]:
    """All contradictions of at least a score: the worst of each kind, then the second of each, and so on.

    Scores of two kinds are not on one scale: a model that misses some cells is as sure of each ``spurious`` one as it
    can be, and these alone would fill the top of the list. Of equal scores, images go in their order.
    """
    found = [
        (audited, one) for audited in images for one in contradictions(audited.truth, audited.predictions, min_score)
    ]
    found.sort(key=lambda pair: -pair[1].score)
    before: Counter[str] = Counter()
    turns = []
    for _, one in found:
        turns.append(before[one.kind])
        before[one.kind] += 1
    order = sorted(range(len(found)), key=turns.__getitem__)
    return [Doubt(rank, *found[place]) for rank, place in enumerate(order, start=1)]


def with_results(images: Sequence[UntiledImage], path: Path, class_count: int) -> list[tuple[UntiledImage, Cells]]:
    """The images that results are of, with these; results are found by the images' names.

    Args:
        images: the images of a dataset.
        path: COCO results with a file beside them that names their images, such as ``image_ids.json``.
        class_count: the number of classes; the results' categories are 1 .. ``class_count``.

    Raises:
        CellSegError: a file cannot be read or is of another form, names an image that the dataset does not have, or a
            result is of another class.
    """
    results = read_results([path])
    named = NamedImages.beside(path)
    if named is None or results.images is None:
        raise CellSegError(f"{path}: no image_ids.json beside it names its images; predict again, or add it")
    records: list[Record] = []
    for number, image in enumerate(images):
        name = image.name + image.tiles[0][1].suffix  # a dot in the id is not to be taken for that of a suffix
        records.append({"id": number, "file_name": name, "height": image.size[0], "width": image.size[1]})
    numbers = NamedImages(named.path, results.images).among(records, Path("the dataset")).numbers
    found = by_image(results.files[0])
    if absent := len(images) - len(numbers):
        logger.warning("%s: has no results of %d of %d images, which are left out", path, absent, len(images))
    places = {place: number for number, place in numbers.items()}
    return [
        (image, _cells(path, found[places[place]], image.size, class_count))
        for place, image in enumerate(images)
        if place in places
    ]


def _cells(path: Path, results: Sequence[dict[str, Any]], size: tuple[int, int], class_count: int) -> Cells:
    classes = [result["category_id"] - 1 for result in results]
    if not set(classes) <= set(range(class_count)):
        raise CellSegError(f"{path}: has a category that is not in 1..{class_count}, the dataset's classes")
    try:
        rles = [to_rle(result["segmentation"], size) for result in results]
        return Cells.from_rles(rles, size, classes, [result["score"] for result in results])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CellSegError(f"{path}: a result has no mask of its image's size ({error}); predict again") from error
