"""What a conversion wrote, read back and compared with its input."""

import json

import cv2
import numpy as np
from drawing import (
    decode_annotations,
)

from cellseg_d2.images.tiff import read_image, read_label_map


def load(folder, part):
    return json.loads((folder / "annotations" / f"instances_{part}.json").read_text())


def by_image(dataset):
    """(image record, its annotations) pairs."""
    cells = dataset["annotations"]
    return [(image, [own for own in cells if own["image_id"] == image["id"]]) for image in dataset["images"]]


def read_png(path):
    return cv2.imread(str(path))[..., ::-1]


def truth(root, sample):
    folder = root / "train" / sample
    maps = {int(path.stem[5:]): read_label_map(path) for path in folder.glob("class*.tif")}
    return read_image(folder / "image.tif"), maps


def assert_shows_window(root, folder, image, annotations):
    """A tile's picture and decoded annotations, crowd ones included, are the window of the image and the label maps."""
    pixels, maps = truth(root, image["source"])
    x0, y0, x1, y1 = image["window"] if "window" in image else (0, 0, image["width"], image["height"])
    assert (image["height"], image["width"]) == (y1 - y0, x1 - x0)
    assert np.array_equal(read_png(folder / image["file_name"]), pixels[y0:y1, x0:x1])
    decoded = decode_annotations(annotations, (y1 - y0, x1 - x0))
    assert set(decoded) <= set(maps)
    for number, label_map in maps.items():
        part = label_map[y0:y1, x0:x1]
        assert np.array_equal(decoded.get(number, np.zeros_like(part)), part)
