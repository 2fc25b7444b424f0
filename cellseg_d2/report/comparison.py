"""Draws the ground truth of an image beside its prediction, and marks missed and spurious cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.coco import Record, to_rle
from cellseg_d2.cells.coco_masks import size_of
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import decode_runs
from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError, one_line, size_text, turned_text
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.export.lettering import Key, swatch
from cellseg_d2.export.marks import MISSED, SPURIOUS, mark_swatch
from cellseg_d2.export.overlay import class_color
from cellseg_d2.report.panels import cell_panel, count_text
from cellseg_d2.report.sheet import Panel


def comparison_keys(categories: Sequence[Record]) -> list[Key]:
    """A legend's entries for pictures of :func:`compare`: the classes of a COCO dataset, and the marks."""
    ordered = sorted(categories, key=lambda category: category["id"])
    classes = [
        (swatch(class_color(place)), str(category.get("name", f"class {category['id']}")))
        for place, category in enumerate(ordered)
    ]
    return [*classes, (mark_swatch(MISSED), "missed"), (mark_swatch(SPURIOUS), "spurious")]


def compare(
    image: NDArray[np.uint8],
    truth: Sequence[Record],
    results: Sequence[Record],
    places: Mapping[Any, int],
    selection: Selection,
    name: str,
) -> list[Panel]:
    """The ground truth with a ring on each missed cell, and the prediction with a cross on each spurious cell.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: its COCO annotations. Crowds are not drawn, and excuse what :func:`unmatched` says they do.
        results: its COCO results.
        places: category id -> class, see :func:`cellseg_d2.cells.coco.class_places`.
        selection: which of them are shown.
        name: the image's name, for errors.

    Returns:
        Two panels.

    Raises:
        CellSegError: a segmentation is damaged or of another size.
    """
    cells, crowd = to_instances(truth, image, places, name)
    found = selection.of(to_instances(results, image, places, name)[0])
    missed, spurious = unmatched(_of(cells, crowd), _of(found))
    annotated = cells[~crowd]
    return [
        cell_panel(
            f"ground truth: {count_text(len(annotated))}, {len(missed)} missed", image, annotated, MISSED, cells[missed]
        ),
        cell_panel(
            f"prediction: {count_text(len(found))}, {len(spurious)} spurious", image, found, SPURIOUS, found[spurious]
        ),
    ]


def to_instances(
    records: Sequence[Record], image: NDArray[np.uint8], places: Mapping[Any, int], name: str
) -> tuple[CellInstances, Bools]:
    """COCO annotations or results of an image, and (N,) bool, which of them are crowds; empty masks are left out.

    Raises:
        CellSegError: a segmentation is damaged or of another size, or a category is not among ``places``.
    """
    if unknown := {record["category_id"] for record in records} - places.keys():
        raise CellSegError(f"{name}: has cells of category {min(unknown)}, which is not among those that are named")
    height, width = image.shape[:2]
    for size in {size_of(record["segmentation"]) for record in records} - {None, (height, width)}:
        turned = turned_text((height, width), size or ())
        raise CellSegError(f"{name}: is {size_text(image.shape)}, one of its masks {size_text(size or (0, 0))}{turned}")
    try:
        runs = decode_runs([to_rle(record["segmentation"], (height, width)) for record in records], (height, width))
        there = np.flatnonzero(runs.areas)
        shown = [records[number] for number in there.tolist()]
        classes = [places[record["category_id"]] for record in shown]
        cells = CellInstances.from_runs(runs.pick(there), classes, [record.get("score", 1.0) for record in shown])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CellSegError(f"{name}: one of its masks does not fit it ({one_line(error)})") from error
    return cells, np.array([bool(record.get("iscrowd")) for record in shown], bool)


def _of(instances: CellInstances, crowd: Bools | None = None) -> Cells:
    return Cells.from_runs(instances.runs(), instances.classes, instances.scores, crowd)
