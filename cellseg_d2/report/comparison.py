"""Draws the ground truth of an image beside its prediction, and marks missed and spurious cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.coco import Record, to_rle
from cellseg_d2.cells.coco_masks import size_of
from cellseg_d2.cells.hidden import visible
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import decode_runs
from cellseg_d2.errors import CellSegError, one_line, size_text, turned_text
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.overlap_table import Cells
from cellseg_d2.export.overlay import draw_crosses, draw_overlay
from cellseg_d2.report.panels import shrunk


def compare(
    image: NDArray[np.uint8],
    truth: Sequence[Record],
    results: Sequence[Record],
    name: str,
    max_side: int | None = None,
) -> list[tuple[NDArray[np.uint8], str]]:
    """The ground truth with a cross on each missed cell, and the prediction with one on each spurious cell.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: its COCO annotations. Crowds are not drawn, and excuse what :func:`unmatched` says they do.
        results: its COCO results that are to be shown; those that better ones hide are left out.
        name: the image's name, for errors.
        max_side: larger pictures are reduced so that their larger side is this; None for never.

    Returns:
        Two pictures, (H, W, 3) uint8 RGB, and what each shows.

    Raises:
        CellSegError: a segmentation is damaged or of another size.
    """
    cells, crowd = to_instances(truth, image, name)
    found = visible(to_instances(results, image, name)[0])
    missed, spurious = unmatched(_of(cells, crowd), _of(found), -np.inf)
    return [
        (
            _crossed(image, cells[~crowd], cells[missed], max_side),
            f"ground truth: {np.count_nonzero(~crowd)} cells, {len(missed)} missed (X)",
        ),
        (
            _crossed(image, found, found[spurious], max_side),
            f"prediction: {len(found)} cells, {len(spurious)} spurious (X)",
        ),
    ]


def _crossed(
    image: NDArray[np.uint8], cells: CellInstances, wrong: CellInstances, max_side: int | None
) -> NDArray[np.uint8]:
    """Cells drawn over their image, with crosses on some; crosses are equally large in pictures of any size."""
    picture = draw_overlay(image, cells)
    if max_side is not None:
        picture = shrunk(picture, max_side)
    return draw_crosses(picture, wrong, picture.shape[1] / image.shape[1])


def to_instances(records: Sequence[Record], image: NDArray[np.uint8], name: str) -> tuple[CellInstances, Bools]:
    """COCO annotations or results of an image, and (N,) bool, which of them are crowds; empty masks are left out.

    Raises:
        CellSegError: a segmentation is damaged or of another size.
    """
    height, width = image.shape[:2]
    for size in {size_of(record["segmentation"]) for record in records} - {None, (height, width)}:
        turned = turned_text((height, width), size or ())
        raise CellSegError(f"{name}: is {size_text(image.shape)}, one of its masks {size_text(size or (0, 0))}{turned}")
    try:
        runs = decode_runs([to_rle(record["segmentation"], (height, width)) for record in records], (height, width))
        there = np.flatnonzero(runs.areas)
        shown = [records[number] for number in there.tolist()]
        classes = [record["category_id"] - 1 for record in shown]
        cells = CellInstances.from_runs(runs.pick(there), classes, [record.get("score", 1.0) for record in shown])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CellSegError(f"{name}: one of its masks does not fit it ({one_line(error)})") from error
    return cells, np.array([bool(record.get("iscrowd")) for record in shown], bool)


def _of(instances: CellInstances, crowd: Bools | None = None) -> Cells:
    return Cells.from_runs(instances.runs(), instances.classes, instances.scores, crowd)
