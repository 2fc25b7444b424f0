"""Results that are the labels of a converted dataset, as a model would write them that knows all cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellseg_d2.conversion.untile import untiled_images


def write_results(dataset: Path, output: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Writes ``results.json`` with ``image_ids.json`` beside it; image ids count from 1, all scores are 0.9.

    Args:
        dataset: a converted dataset.
        output: a folder.
        change: changes the results in place before they are written.
    """
    results, entries = [], []
    for number, image in enumerate(untiled_images(dataset), start=1):
        height, width = image.size
        entries.append({"file_name": f"{image.name}.png", "id": number, "height": height, "width": width})
        for label, rle in zip(image.classes.tolist(), image.runs.rles()):
            results.append({"image_id": number, "category_id": label + 1, "score": 0.9, "segmentation": rle})
    change(results)
    (output / "results.json").write_text(json.dumps(results))
    (output / "image_ids.json").write_text(json.dumps(entries))
