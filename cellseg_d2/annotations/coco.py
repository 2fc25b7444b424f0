"""An existing COCO dataset of whole images, as input of the conversion."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.cells.coco_input import open_truth, without_pixel
from cellseg_d2.cells.coco_records import Records, annotation_ids, crowd_of
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.rle import Rle, decode_runs, paint
from cellseg_d2.errors import CellSegError, size_text, turned_text
from cellseg_d2.files import refuse_other_than_utf8
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import image_header, read_with_header
from cellseg_d2.images.tiff import check_file

FEW_LAYERS, MOST_LABELS = 4, 2**28
"""Layers of overlapping cells that every image may have, and labels (1 GB) in all its layers if it has more."""


@dataclass(frozen=True)
class CocoCell:
    """A cell, or a region to ignore, of an image.

    Attributes:
        number: its class, 1, 2, ...
        crowd: whether it is a region to ignore.
        label: its value in label maps: the annotation's id, so that a tile's cell can be traced back, or a number from
            1 on where these are none.
        rle: its mask, which has a pixel.
    """

    number: int
    crowd: bool
    label: int
    rle: Rle


@dataclass(frozen=True)
class CocoSample(LabelledImage):
    """One image of a COCO dataset.

    Attributes:
        id: made of the image's file name.
        image: the file; any format that OpenCV reads, or TIFF.
        size: (height, width) that the dataset states.
        cells: this image's annotations.
        fault: what is wrong with the first damaged one; empty where all are sound.
    """

    id: str
    image: Path
    size: tuple[int, int]
    cells: list[CocoCell]
    fault: str = ""

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; overlapping cells of one class lie in several label maps.

        Raises:
            CellSegError: the image cannot be read or is of another size, or a segmentation is damaged.
        """
        check_file(self.image)
        if self.fault:
            raise CellSegError(f"{self.image}: {self.fault}")
        if self.size[0] * self.size[1] > max_pixels:
            raise CellSegError(f"{self.image}: is {size_text(self.size)}, over the limit of {max_pixels} pixels")
        image, stated = read_with_header(self.image, rule, max_pixels)
        if image.shape[:2] != self.size:
            turned = turned_text(image.shape, self.size)
            raise CellSegError(
                f"{self.image}: is {size_text(image.shape)}, the COCO file says {size_text(self.size)}{turned}"
            )
        groups: defaultdict[tuple[int, bool], list[CocoCell]] = defaultdict(list)
        for cell in self.cells:
            groups[cell.number, cell.crowd].append(cell)
        layers = []
        for (number, crowd), cells in sorted(groups.items(), key=lambda group: group[0]):
            rles = [cell.rle for cell in cells]
            depth = decode_runs(rles, self.size).depth()
            if depth > FEW_LAYERS and depth * self.size[0] * self.size[1] > MOST_LABELS:
                raise CellSegError(
                    f"{self.image}: has {depth} cells of one class on one pixel, too many for an image of "
                    f"{size_text(self.size)}; remove those that are there several times"
                )
            painted, _ = paint(rles, self.size)
            labels = np.array([0, *(cell.label for cell in cells)], np.int32)
            layers += [LabelMap((number,), labels[layer], crowd) for layer in painted]
        return ImageLabels(image, layers, stated)


def find_coco_samples(ground_truth: Path, root: Path, locate: Callable[[str], Path] | None = None) -> LabelledSet:
    """The images of a COCO file, sorted by id, and the names of its categories in the order of their ids.

    Annotations without a pixel are left out, and noted.

    Args:
        ground_truth: the COCO file.
        root: the folder that its file names are relative to; no image outside is opened.
        locate: gives the file of a stated name; without it the name is the file's below ``root``.

    Raises:
        CellSegError: the file cannot be read or is of another form, two of its images have the same name, or one lies
            outside ``root``.
    """
    locate = locate or partial(_inside, root, ground_truth)
    truth = open_truth(ground_truth, find_size=lambda image: image_header(locate(image["file_name"])).size)
    if truth.annotations is None:
        raise CellSegError(f"{ground_truth}: is no COCO dataset with images, annotations and categories")
    if not truth.images:
        raise CellSegError(f"{ground_truth}: lists no images")
    categories = sorted(truth.categories, key=lambda category: category["id"])
    numbers = {category["id"]: number for number, category in enumerate(categories, start=1)}
    cells, faults = _cells(truth.annotations, numbers)
    samples = [
        CocoSample(
            _sample_id(image["file_name"]),
            locate(image["file_name"]),
            (image["height"], image["width"]),
            cells[image["id"]],
            faults.get(image["id"], ""),
        )
        for image in truth.images
    ]
    for twice in _repeated(sample.id for sample in samples)[:1]:
        raise CellSegError(f"{ground_truth}: has two images of the name {twice}; rename one of them")
    note = without_pixel(truth)
    return LabelledSet(
        sorted(samples, key=lambda sample: sample.id),
        [category["name"] for category in categories],
        [note] if note else [],
    )


def _cells(records: Records, numbers: dict[int, int]) -> tuple[defaultdict[int, list[CocoCell]], dict[int, str]]:
    """The annotations with a pixel, and what is wrong with the first damaged one, by image id."""
    cells: defaultdict[int, list[CocoCell]] = defaultdict(list)
    faults: dict[int, str] = {}
    columns = (records.given, records.masks.rles, records.masks.areas.tolist(), annotation_ids(records.given))
    for place, (record, rle, area, label) in enumerate(zip(*columns)):
        image = records.images[place]
        if place in records.masks.faults:
            faults.setdefault(image, f"{records.name(place)}, {records.masks.faults[place]}")
        elif rle is not None and area:
            crowd = bool(crowd_of(records, place, record))
            cells[image].append(CocoCell(numbers[records.categories[place]], crowd, label, rle))
    return cells, faults


def _inside(root: Path, ground_truth: Path, file_name: str) -> Path:
    """An image's file.

    Raises:
        CellSegError: it lies outside ``root``, where a file from elsewhere is not to reach.
    """
    name = os.path.normpath(file_name)
    if os.path.isabs(name) or name.split(os.sep)[0] == ".." or name == "." or "\0" in name:
        raise CellSegError(
            f"{ground_truth}: has the file_name {file_name!r}, which lies outside --input; write file names "
            "relative to that folder"
        )
    return root / name


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _sample_id(file_name: str) -> str:
    return Path(os.path.normpath(file_name)).with_suffix("").as_posix().replace("/", "_")


def find_labelled(root: Path, annotation_file: Path | None) -> LabelledSet:
    """The images of a COCO file, which lie in ``root``, with its categories.

    Raises:
        CellSegError: see :func:`find_coco_samples`; or no file is given.
    """
    if annotation_file is None:
        raise CellSegError("COCO annotations need their file; add --from-coco GT.json, and --input for the images")
    found = find_coco_samples(annotation_file, root)
    refuse_other_than_utf8(sample.image for sample in found.images)
    return found


READER = Reader("coco", "a COCO file of whole images, given with --from-coco", lambda root: False, find_labelled)
