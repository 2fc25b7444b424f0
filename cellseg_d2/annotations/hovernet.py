"""MATLAB files of HoVer-Net and CoNSeP, ``Labels/x.mat`` of the image ``Images/x.png``.

``inst_map`` has the cells' ids, with gaps; row i of ``inst_type`` is the class of the i-th id in ascending order, not
of id i. Files without classes, as those of Kumar, are of one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.mask_pairs import class_of_labels
from cellseg_d2.annotations.mat_files import INSTANCES, layers_of, read_mat, variables_of
from cellseg_d2.annotations.pairs import all_classes, find_pairs
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import read_with_header
from cellseg_d2.images.tiff import as_labels

CLASS_NAME = "nucleus"

TYPES, TYPE_MAP = "inst_type", "type_map"


@dataclass(frozen=True)
class HoverNetImage(LabelledImage):
    """An image with its MATLAB file.

    Attributes:
        id: the image's name.
        image: the image.
        labels: the MATLAB file.
        has_classes: whether any file of the set has classes.
    """

    id: str
    image: Path
    labels: Path
    has_classes: bool

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        found = read_mat(self.labels, (INSTANCES, TYPES, TYPE_MAP))
        classes = classes_of(self.labels, found, self.has_classes)
        size = (image.shape[0], image.shape[1])
        return ImageLabels(image, layers_of(self.labels, found[INSTANCES], classes, size, class_count), stated)


def classes_of(path: Path, found: dict[str, NDArray[Any]], has_classes: bool) -> dict[int, int]:
    """Label -> class number.

    Raises:
        CellSegError: there are no classes though other files have some, or not one per label.
    """
    labels = as_labels(path, found[INSTANCES])
    ids = np.unique(labels[labels > 0]).tolist()
    if not has_classes:
        return dict.fromkeys(ids, 1)
    if TYPES in found:
        types = as_labels(path, found[TYPES].reshape(1, -1))[0].tolist()
        if len(types) != len(ids):
            raise CellSegError(
                f"{path}: has {len(types)} rows in {TYPES} for {len(ids)} ids in {INSTANCES}; correct it"
            )
        return dict(zip(ids, types))
    if TYPE_MAP not in found or found[TYPE_MAP].shape != labels.shape:
        raise CellSegError(f"{path}: has neither {TYPES} nor a {TYPE_MAP} of the size of {INSTANCES}; add one")
    return class_of_labels(path, labels, as_labels(path, found[TYPE_MAP]))


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with a MATLAB file of their name, sorted by id; classes are called ``class1``, ``class2``, ...

    Raises:
        CellSegError: no file is found, or one has no image.
    """
    pairs, notes = find_pairs(root, name_of, "*.mat file")
    numbers = all_classes([pair.annotations for pair in pairs], _numbers_in)
    count = max((int(number) for number in numbers), default=0)
    names = [f"class{number}" for number in range(1, count + 1)] if count else [CLASS_NAME]
    return LabelledSet([HoverNetImage(*pair, has_classes=count > 0) for pair in pairs], names, notes)


def _numbers_in(path: Path) -> set[str]:
    found = read_mat(path, (TYPES, TYPE_MAP))
    types = found.get(TYPES, found.get(TYPE_MAP, np.zeros((1, 1))))
    return {str(number) for number in np.unique(as_labels(path, types.reshape(1, -1)))}


def name_of(path: Path) -> str | None:
    """The image's name of a MATLAB file."""
    return path.stem if path.suffix.lower() == ".mat" else None


def first_variables(root: Path, levels: tuple[str, ...] = ("", "*/")) -> set[str]:
    """The variables of the first MATLAB file in a folder or one in it."""
    return next((variables_of(path) for level in levels for path in sorted(root.glob(f"{level}*.mat"))), set())


READER = Reader(
    "hovernet",
    "MATLAB files of HoVer-Net and CoNSeP, Labels/x.mat of Images/x.png",
    lambda root: INSTANCES in (found := first_variables(root)) and "class" not in found,
    find_labelled,
)
