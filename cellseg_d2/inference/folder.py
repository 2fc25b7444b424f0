"""A folder of images -> ``test-results.json`` and pictures."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cellseg_d2.data.coco_json import write_json
from cellseg_d2.data.samples import TestImage
from cellseg_d2.export.coco_results import check_results, to_results, write_results
from cellseg_d2.export.overlay import write_overlay
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.progress import track

logger = logging.getLogger(__name__)

FORMATS = ("coco", "overlay")
RESULTS_FILE = "test-results.json"
IDS_FILE = "image_ids.json"


def predict_images(
    predictor: WholeImagePredictor,
    images: Sequence[TestImage],
    output: Path,
    formats: Collection[str] = FORMATS,
    overlay_threshold: float = 0.5,
) -> dict[str, int]:
    """Predicts images and writes what is asked for to ``output``.

    - ``coco``: ``test-results.json``, which appears whole or not at all and is read back with pycocotools, and
      ``image_ids.json`` with the id, name and size of each image;
    - ``overlay``: ``overlays/<name>.png``, of cells with a score of at least ``overlay_threshold``: the many of low
      score that AP wants would hide the picture.

    Returns:
        Class name -> number of cells written.

    Raises:
        CellSegError: an image cannot be read.
    """
    results: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    counts = dict.fromkeys(predictor.class_names, 0)
    for image_file in track(images, len(images), "prediction"):
        image = image_file.read(predictor.cfg.CELLSEG.INTENSITY_RULE)
        cells = predictor.predict(image)
        height, width = image.shape[:2]
        entries.append({"file_name": image_file.path.name, "id": image_file.id, "height": height, "width": width})
        results += to_results(cells, image_file.id)
        for number in cells.classes:
            counts[predictor.class_names[number]] += 1
        if "overlay" in formats:
            sure = cells[cells.scores >= overlay_threshold]
            write_overlay(output / "overlays" / f"{image_file.path.stem}.png", image, sure)
    if "coco" in formats:
        unchecked = output / f"{RESULTS_FILE}.unchecked"
        write_results(unchecked, results)
        sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in entries}
        check_results(unchecked, sizes, len(predictor.class_names))
        unchecked.replace(output / RESULTS_FILE)
        write_json(output / IDS_FILE, entries, indent=1)
    return counts
