"""The input layout: ``ROOT/train/<id>/image.tif`` beside ``class<k>.tif``, and test images with their ids.

A sample may also have an ``ignore.tif``: a label map of regions, such as a pathologist's "ambiguous", in which no class
is rewarded or punished.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import visible_entries
from cellseg_d2.images.tiff import read_image, read_label_map

logger = logging.getLogger(__name__)


_OTHER_FILE = re.compile(r"(image|ignore)\.tiff?", re.IGNORECASE)
_CLASS_FILE = re.compile(r"class([1-9]\d*)\.tiff?", re.IGNORECASE)


class LabelledImage(Protocol):
    """One labelled image, wherever it comes from."""

    @property
    def id(self) -> str:
        """Names the image among all of a dataset."""

    @property
    def image(self) -> Path:
        """The image's file."""

    def read(self, rule: str, max_pixels: int, class_count: int) -> tuple[NDArray[np.uint8], list[LabelMap]]:
        """The image, (H, W, 3) uint8 RGB, and its cells."""


@dataclass(frozen=True)
class Sample:
    """One labelled image on disk: a label file for each class that it has cells of, by class number 1, 2, ..."""

    id: str
    image: Path
    labels: dict[int, Path]
    ignore: Path | None = None

    def read(self, rule: str, max_pixels: int, class_count: int) -> tuple[NDArray[np.uint8], list[LabelMap]]:
        """The image, (H, W, 3) uint8 RGB, and one layer a label file.

        Raises:
            CellSegError: a file cannot be read, or a label map is not of the image's size.
        """
        image = read_image(self.image, rule, max_pixels)
        files = [((number,), path) for number, path in sorted(self.labels.items())]
        layers = [LabelMap(numbers, self._read_labels(path, image, max_pixels)) for numbers, path in files]
        if self.ignore is not None:
            every_class = tuple(range(1, class_count + 1))
            layers.append(LabelMap(every_class, self._read_labels(self.ignore, image, max_pixels), crowd=True))
        return image, layers

    def _read_labels(self, path: Path, image: NDArray[np.uint8], max_pixels: int) -> NDArray[np.int32]:
        labels = read_label_map(path, max_pixels)
        if labels.shape != image.shape[:2]:
            raise CellSegError(
                f"{path}: is {size_text(labels.shape)}, its image.tif {size_text(image.shape)}; "
                "they must be of one size"
            )
        return labels


def find_samples(root: Path) -> tuple[list[Sample], list[Path]]:
    """The labelled images under ``root/train``, sorted by id, and files there that belong to no sample.

    Raises:
        CellSegError: there is no such folder, no sample in it, or a sample with two files for its image or one class.
    """
    folder = root / "train"
    if not folder.is_dir():
        raise CellSegError(f"{folder}: there is no such folder; put each image in {folder}/<id>/image.tif")
    samples, unknown = [], []
    for entry in visible_entries(folder):
        if not entry.is_dir():
            unknown.append(entry)
            continue
        labels: dict[int, Path] = {}
        others: dict[str, Path] = {}
        for file in sorted(entry.iterdir()):
            if match := _CLASS_FILE.fullmatch(file.name):
                first = labels.setdefault(int(match[1]), file)
            elif match := _OTHER_FILE.fullmatch(file.name):
                first = others.setdefault(match[1].lower(), file)
            else:
                unknown.append(file)
                continue
            if first != file:
                raise CellSegError(f"{file}: is there beside {first.name}; keep one of the two")
        image = others.get("image", entry / "image.tif")  # its absence is reported when the sample is read
        samples.append(Sample(entry.name, image, labels, others.get("ignore")))
    if not samples:
        raise CellSegError(f"{folder}: holds no samples; put each image in {folder}/<id>/image.tif")
    return samples, unknown
