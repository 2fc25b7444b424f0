"""Drawn COCO datasets and results, for tests of evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawing import discs, pycocotools_rle

from cellseg_d2.cells.coco import annotate, dataset
from cellseg_d2.cells.label_maps import LabelMap

NAMES = ["A", "B", "never"]

CASES = [
    pytest.param({"seed": 0, "crowds": False}, 100, id="cells"),
    pytest.param({"seed": 1}, 100, id="crowds"),
    pytest.param({"seed": 2, "ties": True}, 100, id="ties"),
    pytest.param({"seed": 3, "cells": 90, "side": 160, "detections": 2.5, "ties": True}, 100, id="over the cap"),
    pytest.param({"seed": 3, "cells": 90, "side": 160, "detections": 2.5}, 1000, id="a cap of 1,000"),
    pytest.param({"seed": 4, "cells": 5, "detections": 8}, 10, id="a cap of 10"),
]
"""Arguments of :func:`draw_case`, and how many detections an image and class are scored."""


def draw_case(
    seed: int, cells: int = 20, side: int = 64, detections: float = 1.5, ties: bool = False, crowds: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A dataset of three images, the last without cells, and detections that are shifted, doubled, wrong and missed."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in (4, 9, 12):
        maps = {number: discs(rng, side, side, cells if image_id != 12 else 0) for number in (1, 2)}
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": side, "width": side})
        own = annotate([LabelMap((number,), cells) for number, cells in maps.items()], (0, 0, side, side))
        for annotation in own:
            annotation["iscrowd"] = int(crowds and rng.random() < 0.15)
        annotations.append(own)
        for _ in range(int(detections * cells)):
            number = int(rng.integers(1, 3))
            values = np.unique(maps[number][maps[number] > 0])
            mask = maps[number] == rng.choice(values) if len(values) else discs(rng, side, side, 1) > 0
            mask = np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) if rng.random() < 0.6 else mask
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y, right, bottom = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            results.append(
                {
                    "image_id": image_id,
                    "category_id": number if rng.random() < 0.9 else 3 - number,
                    "bbox": [x, y, right - x, bottom - y],
                    "score": round(float(rng.random()), 1 if ties else 6),
                    "segmentation": pycocotools_rle(mask),
                }
            )
    return dataset(images, annotations, NAMES), results
