"""Small COCO files, as people write them by hand, and how they are read."""

import json

import numpy as np

from cellseg_d2.cells.coco_input import read_pair

SQUARE = np.zeros((6, 8), bool)
SQUARE[1:3, 2:5] = True

POLYGON = [[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]]
"""Just the square."""


def write(path, content, encoding="utf-8"):
    path.write_text(json.dumps(content), encoding=encoding)
    return path


def pair(folder, truth, results=(), encoding="utf-8"):
    write(folder / "gt.json", truth, encoding)
    return read_pair(folder / "gt.json", write(folder / "results.json", list(results), encoding))


def perfect(truth):
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: own[key] for key in keys} | {"score": 0.9} for own in truth["annotations"]]


def small(segmentation=POLYGON, **annotation):
    """A dataset of one cell."""
    return {
        "images": [{"id": 3, "file_name": "a.png", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "segmentation": segmentation, **annotation}],
        "categories": [{"id": 7, "name": "cell"}],
    }
