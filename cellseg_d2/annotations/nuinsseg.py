"""NuInsSeg: per organ ``tissue images/x.png``, ``label masks modify/x.tif`` and ``vague areas/mask binary/x.png``.

In vague areas no nucleus is rewarded or punished.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.pairs import Pair, left_out, match_images
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.cells.image_names import plain_name
from cellseg_d2.cells.label_maps import LabelMap, ignore_regions
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_with_header
from cellseg_d2.images.label_files import LABEL_SUFFIXES, read_label_file

CLASS_NAME = "nucleus"

IMAGES = "tissue images"
LABELS = ("label masks modify", "label masks")
VAGUE = ("vague areas/mask binary", "vague areas/mask binary_vague")
"""Folders in the order of choice."""


@dataclass(frozen=True)
class NuInsSegImage(LabelledImage):
    """An image with its nuclei.

    Attributes:
        id: the image's name; with its organ in front where two images have one name.
        image: the image.
        labels: its label map.
        vague: a mask of areas to ignore, all that is not 0; None where there is none.
    """

    id: str
    image: Path
    labels: Path
    vague: Path | None

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        layers = [LabelMap((1,), _read(self.labels, image, max_pixels))]
        if self.vague is not None and (areas := _read(self.vague, image, max_pixels)).any():
            layers.append(ignore_regions(areas > 0, class_count))
        return ImageLabels(image, layers, stated)


def _read(path: Path, image: NDArray[np.uint8], max_pixels: int) -> NDArray[np.int32]:
    labels = read_label_file(path, max_pixels)
    if labels.shape != image.shape[:2]:
        sizes = f"{size_text(labels.shape)}, its image {size_text(image.shape)}"
        raise CellSegError(f"{path}: is {sizes}; they must be of one size")
    return labels


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images of an organ's folder, or of all organs in a folder, sorted by id; of one class.

    Raises:
        CellSegError: there are none, or a label map has no image.
    """
    samples: list[NuInsSegImage] = []
    notes: list[str] = []
    for organ in _organs(root):
        found, missing = _samples(organ)
        samples, notes = samples + found, notes + missing
    if not samples:
        raise CellSegError(f"{root}: holds no <organ>/{IMAGES} with {LABELS[0]} beside it; give NuInsSeg's folder")
    counts = Counter(sample.id for sample in samples)
    named = [
        sample if counts[sample.id] == 1 else replace(sample, id=f"{sample.image.parent.parent.name}_{sample.id}")
        for sample in samples
    ]
    return LabelledSet(sorted(named, key=lambda sample: sample.id), [CLASS_NAME], notes)


def _organs(root: Path) -> list[Path]:
    return [path.parent for level in ("", "*/") for path in sorted(root.glob(f"{level}{IMAGES}")) if path.is_dir()]


def _samples(organ: Path) -> tuple[list[NuInsSegImage], list[str]]:
    """An organ's images, and a note of those without labels."""
    labels = next((organ / name for name in LABELS if (organ / name).is_dir()), None)
    images = [path for path in visible_entries(organ / IMAGES) if is_image(path)]
    pairs: list[Pair] = [] if labels is None else match_images(list(_by_name(labels).items()), images)
    vague = next((_by_name(organ / name) for name in VAGUE if (organ / name).is_dir()), {})
    samples = [NuInsSegImage(*pair, vague.get(plain_name(pair.image))) for pair in pairs]
    return samples, left_out(organ, images, pairs)


def _by_name(folder: Path) -> dict[str, Path]:
    return {plain_name(path): path for path in visible_entries(folder) if path.suffix.lower() in LABEL_SUFFIXES}


READER = Reader(
    "nuinsseg",
    "NuInsSeg's folders, <organ>/tissue images with label masks; vague areas are ignored",
    lambda root: bool(_organs(root)),
    find_labelled,
)
