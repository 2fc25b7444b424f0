"""Lizard's MATLAB files: ``Labels/x.mat`` of the image ``Lizard_Images1/x.png``.

``inst_map`` has the cells' ids; ``id`` lists them in any order, and row i of ``class`` is the class of ``id[i]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg_d2.annotations.conic import CLASS_NAMES
from cellseg_d2.annotations.hovernet import first_variables, name_of
from cellseg_d2.annotations.mat_files import INSTANCES, layers_of, read_mat
from cellseg_d2.annotations.pairs import find_pairs
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import read_with_header
from cellseg_d2.images.tiff import as_labels

IDS, CLASSES = "id", "class"
DEPTH = 2
"""Lizard's labels are unpacked to ``Lizard_Labels/Labels``."""


@dataclass(frozen=True)
class LizardImage(LabelledImage):
    """An image with its MATLAB file.

    Attributes:
        id: the image's name.
        image: the image.
        labels: the MATLAB file.
    """

    id: str
    image: Path
    labels: Path

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        found = read_mat(self.labels, (INSTANCES, IDS, CLASSES))
        classes = self._classes({key: found[key] for key in (IDS, CLASSES) if key in found})
        size = (image.shape[0], image.shape[1])
        return ImageLabels(image, layers_of(self.labels, found[INSTANCES], classes, size, class_count), stated)

    def _classes(self, found: dict[str, NDArray[Any]]) -> dict[int, int]:
        """Label -> class number."""
        if len(found) < 2:
            raise CellSegError(f"{self.labels}: has not both {IDS} and {CLASSES}, as Lizard has; add them")
        ids, classes = (as_labels(self.labels, found[key].reshape(1, -1))[0].tolist() for key in (IDS, CLASSES))
        if len(ids) != len(classes):
            raise CellSegError(f"{self.labels}: has {len(ids)} rows in {IDS}, {len(classes)} in {CLASSES}; correct it")
        if len(set(ids)) != len(ids):
            twice = next(label for label in ids if ids.count(label) > 1)
            raise CellSegError(f"{self.labels}: has the {IDS} {twice} twice; keep one")
        return dict(zip(ids, classes))


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with a MATLAB file of their name, sorted by id.

    Raises:
        CellSegError: no file is found, or one has no image.
    """
    pairs, notes = find_pairs(root, name_of, "*.mat file", DEPTH)
    return LabelledSet([LizardImage(*pair) for pair in pairs], list(CLASS_NAMES), notes)


READER = Reader(
    "lizard",
    "Lizard's MATLAB files, Labels/x.mat of Lizard_Images1/x.png",
    lambda root: {INSTANCES, IDS, CLASSES} <= first_variables(root, ("", "*/", "*/*/")),
    find_labelled,
)
