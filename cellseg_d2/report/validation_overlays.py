"""Pictures of validation images, which training logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.coco import Record, by_image, class_places
from cellseg_d2.cells.selection import Selection
from cellseg_d2.data.channels import read_tile
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.images.channels import Channels
from cellseg_d2.report.comparison import compare, comparison_keys
from cellseg_d2.report.sheet import draw_sheet

RGB = Channels()

SHOWN_SCORE = 0.5
"""The least score of a cell to draw."""

WIDTH = 768
"""The width of a picture in pixels; small, because an event file keeps those of every evaluation."""


def validation_overlays(
    truth: Mapping[str, Any], results: Iterable[Record], root: Path, count: int, channels: Channels = RGB
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draws the images with the most cells, which are always the same, with ground truth beside prediction.

    Args:
        truth: a COCO dataset.
        results: COCO results of all of its images.
        root: the folder that its file names are relative to.
        count: number of images; fewer where the dataset has fewer.
        channels: the images' channels.

    Yields:
        A name that is the same in every evaluation, and a (H, W, 3) uint8 RGB picture.

    Raises:
        CellSegError: a segmentation is damaged or of another size than its image.
    """
    cells = by_image(truth["annotations"])
    number = Counter(cell["image_id"] for cell in truth["annotations"] if not cell.get("iscrowd"))
    keys = comparison_keys(truth["categories"])
    found, places = by_image(results), class_places(truth)
    selection = Selection(class_names(truth), SHOWN_SCORE)
    shown = sorted(truth["images"], key=lambda image: -number[image["id"]])[:count]
    for place, record in enumerate(shown, start=1):
        path = root / record["file_name"]
        image = channels.picture(read_tile(str(path), channels.names))
        panels = compare(image, cells[record["id"]], found[record["id"]], places, selection, str(path))
        yield f"overlays/{place}_{path.stem}", draw_sheet([panels], keys, WIDTH)
