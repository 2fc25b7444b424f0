"""``annotations/instances_default.json``: the cells that people see as a COCO dataset, to be corrected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cellseg_d2.cells.coco import Record, to_xywh
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.outlines import in_one_line, trace
from cellseg_d2.files import whole_file

DATASET_FILE = Path("annotations", "instances_default.json")
"""Where CVAT exports it to; with the images in ``images`` beside ``annotations`` the folder is such an export."""


def to_annotations(instances: CellInstances) -> list[Record]:
    """Cells of one image as COCO annotations, without ``id`` and ``image_id``; category id = class + 1.

    A segmentation has a polygon for each part of a cell along its pixels' edges, from which pycocotools draws the very
    same pixels, see :func:`cellseg_d2.cells.outlines.trace`. COCO's polygons have no holes, so a slit leads to each,
    see :func:`cellseg_d2.cells.outlines.in_one_line`. RLE has holes, but Label Studio does not import it, and its
    outlines cannot be dragged.

    Args:
        instances: cells with a pixel each.
    """
    boxes, areas = to_xywh(instances.mask_boxes).tolist(), instances.areas.tolist()
    scores = instances.stated_scores.tolist()
    return [
        {
            "category_id": number + 1,
            "segmentation": [in_one_line(part).ravel().tolist() for part in trace(mask, origin)],
            "area": area,
            "bbox": box,
            "iscrowd": 0,
            "score": score,
        }
        for number, mask, origin, area, box, score in zip(
            instances.classes.tolist(), instances.masks, instances.origins, areas, boxes, scores
        )
    ]


class DatasetWriter:
    """Writes the annotations of one image after the other, so that all of them never lie in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._images: list[dict[str, Any]] = []
        self._count = 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, class_names: Sequence[str]) -> Iterator[DatasetWriter]:
        """A writer of :data:`DATASET_FILE`, which appears whole at the end, or not at all if anything fails.

        Args:
            folder: the folder of all results.
            class_names: the names of category 1, 2, ...

        Raises:
            CellSegError: the file cannot be written.
        """
        with whole_file(folder / DATASET_FILE) as partial, partial.open("w", encoding="utf-8") as file:
            writer = cls(file)
            file.write('{"annotations":[')
            yield writer
            categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
            rest = json.dumps({"images": writer._images, "categories": categories}, separators=(",", ":"))
            file.write(f"\n],{rest[1:]}\n")

    def append(self, image: dict[str, Any], annotations: Iterable[Record]) -> None:
        """Writes an image's annotations behind those that are there, with ids from 1 through all images.

        Args:
            image: its ``id``, ``file_name``, ``height`` and ``width``.
            annotations: see :func:`to_annotations`.
        """
        self._images.append(image)
        for annotation in annotations:
            self._count += 1
            record = {"id": self._count, "image_id": image["id"], **annotation}
            self._file.write(("," if self._count > 1 else "") + "\n" + json.dumps(record, separators=(",", ":")))
