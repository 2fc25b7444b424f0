"""Images beside what was found in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.data.coco_json import read_json
from cellseg_d2.data.coco_source import to_rle
from cellseg_d2.data.samples import TestImage
from cellseg_d2.data.tiff import INTENSITY_RULE
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.overlay import draw_grid, draw_overlay, write_picture
from cellseg_d2.instances import CellInstances

Cells = list[dict[str, Any]]
"""COCO annotations or results."""


def write_prediction_grid(
    images: Sequence[TestImage],
    results: Path,
    output: Path,
    *,
    ground_truth: Path | None = None,
    score_threshold: float = 0.5,
    rule: str = INTENSITY_RULE,
) -> None:
    """A PNG with a row an image: the image, its ground truth where that is given, and its predicted cells.

    Args:
        images: what to show, with their ids.
        results: COCO results, such as ``test-results.json``.
        output: the PNG.
        ground_truth: a COCO dataset with masks as compressed RLE.
        score_threshold: cells with a lower score are not drawn.
        rule: how images that are not 8 bit are scaled.

    Raises:
        CellSegError: a file cannot be read or is of another form.
    """
    layers = _read_layers(results, ground_truth, score_threshold)
    pictures = []
    for image_file in images:
        image = image_file.read(rule)
        pictures.append(image)
        pictures += [draw_overlay(image, _instances(layer[image_file.id], image, image_file.path)) for layer in layers]
    write_picture(output, draw_grid(pictures, columns=1 + len(layers)))


def _read_layers(results: Path, ground_truth: Path | None, score_threshold: float) -> list[defaultdict[int, Cells]]:
    """What is drawn over each image, by image id: the ground truth where that is given, and the results."""
    try:
        layers = [_by_image([result for result in read_json(results) if result["score"] >= score_threshold])]
        if ground_truth is not None:
            cells = read_json(ground_truth)["annotations"]
            layers.insert(0, _by_image([cell for cell in cells if not cell.get("iscrowd")]))
    except (KeyError, TypeError) as error:
        files = " or ".join(str(path) for path in (results, ground_truth) if path is not None)
        raise CellSegError(f"{files}: holds no COCO results, or no COCO dataset ({error})") from error
    return layers


def _instances(cells: Cells, image: NDArray[np.uint8], path: Path) -> CellInstances:
    height, width = image.shape[:2]
    try:
        return CellInstances.from_rles(
            [to_rle(cell["segmentation"], (height, width)) for cell in cells],
            [cell["category_id"] - 1 for cell in cells],
            (height, width),
            [cell.get("score", 1.0) for cell in cells],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CellSegError(f"{path}: one of its masks does not fit it ({error})") from error


def _by_image(cells: Cells) -> defaultdict[int, Cells]:
    """Cells by image id; none for other ids."""
    found = defaultdict(list)
    for cell in cells:
        found[cell["image_id"]].append(cell)
    return found
