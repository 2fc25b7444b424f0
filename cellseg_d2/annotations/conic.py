"""CoNIC: ``images.npy``, (N, 256, 256, 3), and ``labels.npy``, (N, 256, 256, 2), each pixel's instance and class.

``patch_info.csv`` beside names each patch; those of one image of Lizard stay together.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg_d2.annotations.mask_pairs import class_of_labels
from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.annotations.stacks import IMAGES, StackedImage, check_stacks, find_stacks, names_of
from cellseg_d2.cells.label_maps import LabelMap, split_classes
from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.images.tiff import as_labels

CLASS_NAMES = ("Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective")
"""Classes 1 to 6 of CoNIC and of Lizard."""

LABELS = "labels.npy"
PATCHES = "patch_info.csv"


@dataclass(frozen=True)
class ConicImage(StackedImage):
    """One patch."""

    def layers(self, where: str, labels: NDArray[Any], class_count: int) -> list[LabelMap]:
        """See :meth:`StackedImage.layers`."""
        ids, classes = as_labels(where, labels[..., 0]), as_labels(where, labels[..., 1])
        numbers = class_of_labels(where, ids, classes)
        if (largest := max(numbers.values(), default=0)) > class_count:
            raise CellSegError(f"{where}: has the class {largest}; known are 1 to {class_count}")
        return split_classes(ids, numbers)


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The patches in and below a folder, in the order of the arrays.

    Raises:
        CellSegError: there are none, or the arrays and the list of patches do not fit each other.
    """
    stacks = [images for images in find_stacks(root) if images.with_name(LABELS).is_file()]
    if not stacks:
        raise CellSegError(f"{root}: holds no {IMAGES} with {LABELS} beside it; give the folder of CoNIC's arrays")
    samples: list[ConicImage] = []
    for images, name in zip(stacks, names_of(root, stacks)):
        labels = images.with_name(LABELS)
        sources = _sources(images.with_name(PATCHES), check_stacks(images, labels, 2))
        samples += [
            ConicImage(f"{name}{place:05}", images, labels, place, source) for place, source in enumerate(sources)
        ]
    return LabelledSet(sorted(samples, key=lambda sample: sample.id), list(CLASS_NAMES))


def _sources(path: Path, count: int) -> list[str]:
    """The image that each patch was cut from: its name in ``patch_info.csv`` without the number; empty without one."""
    if not path.is_file():
        return [""] * count
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [row[0] for row in csv.reader(file) if row][1:]
    except (OSError, ValueError, csv.Error) as error:
        raise CellSegError(f"{path}: cannot be read as a CSV ({one_line(error)}); download it again") from error
    if len(names) != count:
        raise CellSegError(f"{path}: names {len(names)} patches, {IMAGES} has {count}; take those of one release")
    return [name.rpartition("-")[0] or name for name in names]


READER = Reader(
    "conic",
    "CoNIC's images.npy and labels.npy in one folder, patches of one image stay together",
    lambda root: any(images.with_name(LABELS).is_file() for images in find_stacks(root)),
    find_labelled,
)
