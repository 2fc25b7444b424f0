"""An existing COCO dataset of whole images, as input of the conversion."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.cells.coco import to_rle
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.rle import paint
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.files import read_json, refuse_other_than_utf8
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import check_file

MAX_LABEL = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class CocoSample(LabelledImage):
    """One image of a COCO dataset.

    Attributes:
        id: made of the image's file name.
        image: the file; any format that OpenCV reads, or TIFF.
        size: (height, width) that the dataset states.
        annotations: this image's annotations, as in the file.
        numbers: category id of the file -> class number 1, 2, ...
    """

    id: str
    image: Path
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    numbers: dict[int, int]

    def read(self, rule: str, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; overlapping cells of one class lie in several label maps.

        Raises:
            CellSegError: the image cannot be read or is of another size, or a segmentation is damaged.
        """
        check_file(self.image)
        if self.size[0] * self.size[1] > max_pixels:
            raise CellSegError(f"{self.image}: is {size_text(self.size)}, over the limit of {max_pixels} pixels")
        image = read_whole(self.image, rule, max_pixels)
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
                reason = one_line(error)
                raise CellSegError(f"{self.image}: has a segmentation that COCO does not know ({reason})") from error
            labels = np.array([0, *_labels(own)], np.int32)
            layers += [LabelMap((number,), labels[layer], crowd) for layer in painted]
        return ImageLabels(image, layers)


def find_coco_samples(ground_truth: Path, root: Path) -> tuple[list[CocoSample], list[str]]:
    """The images of a COCO file, sorted by id, and the names of its categories in the order of their ids.

    Args:
        ground_truth: the COCO file.
        root: the folder that its file names are relative to.

    Raises:
        CellSegError: the file cannot be read, is of another form, or two of its images or of its categories have the
            same name or id.
    """
    try:
        content = read_json(ground_truth)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: number for number, category in enumerate(categories, start=1)}
        names = [str(category["name"]) for category in categories]
        for kind, field, values in (
            ("categories", "id", [category["id"] for category in categories]),
            ("categories", "name", names),
            ("images", "id", [image["id"] for image in content["images"]]),
        ):
            for value in _repeated(values)[:1]:
                raise CellSegError(f"{ground_truth}: has two {kind} of the {field} {value}; each needs its own")
        own: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] not in numbers:
                raise KeyError(f"category {annotation['category_id']}")
            own[annotation["image_id"]].append(annotation)
        samples = [
            CocoSample(
                _sample_id(image["file_name"]),
                root / image["file_name"],
                (_side(image["height"]), _side(image["width"])),
                own.pop(image["id"], []),
                numbers,
            )
            for image in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise CellSegError(f"{ground_truth}: is no COCO dataset ({reason})") from error
    if own:
        raise CellSegError(f"{ground_truth}: has annotations of image {next(iter(own))}, which it does not list")
    if not samples:
        raise CellSegError(f"{ground_truth}: lists no images")
    for twice in _repeated(sample.id for sample in samples)[:1]:
        raise CellSegError(f"{ground_truth}: has two images of the name {twice}; rename one of them")
    return sorted(samples, key=lambda sample: sample.id), names


def _side(value: Any) -> int:
    if not isinstance(value, (int, float)) or value < 1 or value % 1:
        raise ValueError(f"an image's height and width are whole numbers above 0, not {value!r}")
    return int(value)


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _labels(annotations: Sequence[dict[str, Any]]) -> list[int]:
    """The annotations' ids as labels, so that a tile's cell can be traced back; numbers from 1 where they are none."""
    ids = [annotation.get("id") for annotation in annotations]
    if all(isinstance(number, int) and 0 < number <= MAX_LABEL for number in ids) and len(set(ids)) == len(ids):
        return [int(number) for number in ids if number is not None]
    return list(range(1, len(ids) + 1))


def _sample_id(file_name: str) -> str:
    return Path(file_name).with_suffix("").as_posix().replace("/", "_")


def find_labelled(root: Path, annotation_file: Path | None) -> LabelledSet:
    """The images of a COCO file, which lie in ``root``, with its categories.

    Raises:
        CellSegError: see :func:`find_coco_samples`; or no file is given.
    """
    if annotation_file is None:
        raise CellSegError("COCO annotations need their file; add --from-coco GT.json, and --input for the images")
    samples, names = find_coco_samples(annotation_file, root)
    refuse_other_than_utf8(sample.image for sample in samples)
    return LabelledSet(samples, names)


READER = Reader("coco", "a COCO file of whole images, given with --from-coco", lambda root: False, find_labelled)
