"""Cells and predictions of a COCO dataset and COCO results, image by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellseg_d2.cells.coco import Record, by_image, class_places, to_rle
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.evaluation.overlap_table import Cells


@dataclass(frozen=True)
class EvaluatedImage:
    """One image's cells and predictions; the predictions in the order of the results.

    Attributes:
        name: the image's file name, or its id.
        tissue: what the image's record says under ``tissue``, for the mean over tissues; most files say nothing.
        truth, predictions: classes are the places of category ids in ascending order.
    """

    name: str
    tissue: str | None
    truth: Cells
    predictions: Cells


def class_names(truth: Mapping[str, Any]) -> list[str]:
    """Names of a dataset's categories in the order of their ids."""
    return [str(category["name"]) for category in sorted(truth["categories"], key=lambda category: category["id"])]


def image_cells(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Iterator[EvaluatedImage]:
    """The images of a dataset in the order of their ids, one after the other, so that their masks never lie in memory.

    Args:
        truth: a COCO dataset; segmentations are polygons or RLE of either form.
        results: COCO results with segmentations.

    Raises:
        CellSegError: a result is of an image or category that the dataset does not have; an image's size is nowhere
            stated; a segmentation is damaged or of another size.
    """
    classes = class_places(truth)
    images = {image["id"]: image for image in truth["images"]}
    cells = _checked_by_image("annotations", truth["annotations"], images, classes)
    found = _checked_by_image("results", results, images, classes)
    for number in sorted(images):
        size = _size(images[number], [*cells[number], *found[number]])
        yield EvaluatedImage(
            name=str(images[number].get("file_name", number)),
            tissue=images[number].get("tissue"),
            truth=_cells("annotations", number, cells[number], size, classes),
            predictions=_cells("results", number, found[number], size, classes),
        )


def _checked_by_image(
    kind: str, records: Sequence[Mapping[str, Any]], images: Mapping[Any, Any], classes: Mapping[Any, int]
) -> defaultdict[Any, list[Mapping[str, Any]]]:
    for record in records:
        for key, known in (("image_id", images), ("category_id", classes)):
            if record[key] not in known:
                raise CellSegError(f"{kind} have the {key} {record[key]}, which the ground truth does not list")
    return by_image(records)


def _size(image: Record, records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(height, width): stated by the image's record, or else by an RLE."""
    if "height" in image and "width" in image:
        return int(image["height"]), int(image["width"])
    for record in records:
        if isinstance(record["segmentation"], dict):
            height, width = record["segmentation"]["size"]
            return int(height), int(width)
    if records:
        raise CellSegError(f"image {image['id']} of the ground truth has no height and width")
    return 1, 1  # nothing is in it


def _cells(
    kind: str, image: Any, records: Sequence[Mapping[str, Any]], size: tuple[int, int], classes: Mapping[Any, int]
) -> Cells:
    try:
        return Cells.from_rles(
            [to_rle(record["segmentation"], size) for record in records],
            size,
            [classes[record["category_id"]] for record in records],
            [float(record.get("score", 1)) for record in records],
            [bool(record.get("iscrowd")) for record in records],
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CellSegError(f"a segmentation of the {kind} of image {image} is damaged ({one_line(error)})") from error
