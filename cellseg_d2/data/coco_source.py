"""An existing COCO dataset of whole images, as input of the conversion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from cellseg_d2.data.coco_json import read_json
from cellseg_d2.data.labels import LabelLayer
from cellseg_d2.data.rle import Rle, paint
from cellseg_d2.data.tiff import IntensityRule, read_image
from cellseg_d2.errors import CellSegError

MAX_LABEL = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class CocoSample:
    """One image of a COCO dataset.

    Attributes:
        id: made of the image's file name.
        image: the file; any format that OpenCV reads, or TIFF.
        size: (height, width) that the dataset states.
        annotations: of this image, as in the file.
        numbers: category id of the file -> class number 1, 2, ...
    """

    id: str
    image: Path
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    numbers: dict[int, int]

    def read(self, rule: str, max_pixels: int, class_count: int) -> tuple[NDArray[np.uint8], list[LabelLayer]]:
        """The image, (H, W, 3) uint8 RGB, and its cells in as few layers as their overlaps allow.

        Raises:
            CellSegError: the image cannot be read or is of another size, or a segmentation is damaged.
        """
        image = _read_any(self.image, rule, max_pixels)
        if image.shape[:2] != self.size:
            raise CellSegError(f"{self.image}: is {image.shape[0]} x {image.shape[1]}, the COCO file says {self.size}")
        groups: defaultdict[tuple[int, bool], list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.annotations:
            groups[self.numbers[annotation["category_id"]], bool(annotation.get("iscrowd"))].append(annotation)
        layers = []
        for (number, crowd), own in sorted(groups.items(), key=lambda group: group[0]):
            try:
                painted, _ = paint([to_rle(annotation["segmentation"], self.size) for annotation in own], self.size)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise CellSegError(f"{self.image}: has a segmentation that COCO does not know ({error})") from error
            labels = np.array([0, *_labels(own)], np.int32)
            layers += [LabelLayer((number,), labels[layer], crowd) for layer in painted]
        return image, layers


def find_coco_samples(ground_truth: Path, root: Path) -> tuple[list[CocoSample], list[str]]:
    """The images of a COCO file, sorted by id, and the names of its categories in the order of their ids.

    Args:
        ground_truth: the COCO file.
        root: the folder that its file names are relative to.

    Raises:
        CellSegError: the file cannot be read, is of another form, or two of its images have the same name.
    """
    try:
        content = read_json(ground_truth)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: number for number, category in enumerate(categories, start=1)}
        own: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] not in numbers:
                raise KeyError(f"category {annotation['category_id']}")
            own[annotation["image_id"]].append(annotation)
        samples = [
            CocoSample(
                _sample_id(image["file_name"]),
                root / image["file_name"],
                (image["height"], image["width"]),
                own.pop(image["id"], []),
                numbers,
            )
            for image in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise CellSegError(f"{ground_truth}: is no COCO dataset ({type(error).__name__}: {error})") from error
    if own:
        raise CellSegError(f"{ground_truth}: has annotations of image {next(iter(own))}, which it does not list")
    if not samples:
        raise CellSegError(f"{ground_truth}: lists no images")
    ids = [sample.id for sample in samples]
    if twice := next((sample_id for sample_id in ids if ids.count(sample_id) > 1), None):
        raise CellSegError(f"{ground_truth}: has two images of the name {twice}; rename one of them")
    return sorted(samples, key=lambda sample: sample.id), [str(category["name"]) for category in categories]


def to_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A COCO segmentation, polygons or RLE of either form, as compressed RLE.

    Raises:
        ValueError, TypeError, KeyError, IndexError: it is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, *segmentation["size"])
    else:
        rle = segmentation
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def _labels(annotations: Sequence[dict[str, Any]]) -> list[int]:
    """The annotations' ids as labels, so that a tile's cell can be traced back; numbers from 1 where they are none."""
    ids = [annotation.get("id") for annotation in annotations]
    if all(isinstance(number, int) and 0 < number <= MAX_LABEL for number in ids) and len(set(ids)) == len(ids):
        return [int(number) for number in ids if number is not None]
    return list(range(1, len(ids) + 1))


def _sample_id(file_name: str) -> str:
    return Path(file_name).with_suffix("").as_posix().replace("/", "_")


def _read_any(path: Path, rule: str, max_pixels: int) -> NDArray[np.uint8]:
    if path.suffix.lower() in (".tif", ".tiff"):
        return read_image(path, rule, max_pixels)
    if not path.is_file():
        raise CellSegError(f"{path}: there is no such file")
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if pixels is None:
        raise CellSegError(f"{path}: cannot be read as an image; export it again")
    return IntensityRule.parse(rule).apply(np.ascontiguousarray(pixels[..., ::-1]))
