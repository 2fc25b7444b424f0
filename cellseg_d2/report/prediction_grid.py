"""Images beside what was found in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from cellseg_d2.data.coco_json import read_json
from cellseg_d2.data.samples import TestImage
from cellseg_d2.data.tiff import INTENSITY_RULE
from cellseg_d2.export.overlay import draw_grid, draw_overlay
from cellseg_d2.instances import CellInstances


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
    layers = [_by_image([result for result in read_json(results) if result["score"] >= score_threshold])]
    if ground_truth is not None:
        layers.insert(
            0, _by_image([cell for cell in read_json(ground_truth)["annotations"] if not cell.get("iscrowd")])
        )
    pictures = []
    for image_file in images:
        image = image_file.read(rule)
        pictures.append(image)
        for layer in layers:
            cells = layer[image_file.id]
            instances = CellInstances.from_rles(
                [cell["segmentation"] for cell in cells],
                [cell["category_id"] - 1 for cell in cells],
                (image.shape[0], image.shape[1]),
                [cell.get("score", 1.0) for cell in cells],
            )
            pictures.append(draw_overlay(image, instances))
    output.parent.mkdir(parents=True, exist_ok=True)
    grid = draw_grid(pictures, columns=1 + len(layers))
    output.write_bytes(cv2.imencode(".png", grid[..., ::-1])[1].tobytes())


def _by_image(cells: Sequence[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    """Cells by image id; none for other ids."""
    found = defaultdict(list)
    for cell in cells:
        found[cell["image_id"]].append(cell)
    return found
