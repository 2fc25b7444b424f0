"""PanNuke: ``images.npy``, (N, 256, 256, 3), and ``masks.npy``, (N, 256, 256, 6), with a channel of ids per class.

They lie in one folder, or as published in ``Fold 1/images/fold1`` and ``Fold 1/masks/fold1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.annotations.stacks import IMAGES, StackedImage, check_stacks, find_stacks, names_of
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import as_labels

CLASS_NAMES = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
"""The first five channels; the sixth is the background."""

MASKS = "masks.npy"


@dataclass(frozen=True)
class PanNukeImage(StackedImage):
    """One image of a fold."""

    def layers(self, where: str, labels: NDArray[Any], class_count: int) -> list[LabelMap]:
        """See :meth:`StackedImage.layers`; classes may share pixels."""
        maps = (as_labels(where, labels[..., number]) for number in range(len(CLASS_NAMES)))
        return [LabelMap((number,), labels) for number, labels in enumerate(maps, start=1) if labels.any()]


def _masks_of(images: Path) -> Path | None:
    """``masks.npy`` in the same folder, or in the one whose path has ``masks`` for ``images``."""
    places = [images.with_name(MASKS)]
    parts = list(images.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "masks"
        places.append(Path(*parts) / MASKS)
    return next((path for path in places if path.is_file()), None)


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images of the folds in and below a folder, in the order of the arrays.

    Raises:
        CellSegError: there are none, or two arrays do not fit each other.
    """
    pairs = [(images, masks) for images in find_stacks(root) if (masks := _masks_of(images)) is not None]
    if not pairs:
        raise CellSegError(f"{root}: holds no {IMAGES} with its {MASKS}; give the folder that PanNuke was unpacked to")
    samples: list[PanNukeImage] = []
    for (images, masks), name in zip(pairs, names_of(root, [images for images, _ in pairs])):
        count = check_stacks(images, masks, len(CLASS_NAMES) + 1)
        samples += [PanNukeImage(f"{name}{place:05}", images, masks, place) for place in range(count)]
    return LabelledSet(sorted(samples, key=lambda sample: sample.id), list(CLASS_NAMES))


READER = Reader(
    "pannuke",
    "PanNuke's images.npy and masks.npy, in one folder or as published",
    lambda root: any(_masks_of(images) is not None for images in find_stacks(root)),
    find_labelled,
)
