"""The input layout: ``ROOT/train/<id>/image.tif`` beside ``class<k>.tif``, and test images with their ids.

A sample may also have an ``ignore.tif``: a label map of regions, such as a pathologist's "ambiguous", in which no class
is rewarded or punished.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader, problem_of
from cellseg_d2.cells.label_maps import LabelMap, ignore_regions
from cellseg_d2.errors import CellSegError, size_text
from cellseg_d2.files import refuse_other_than_utf8, visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.tiff import read_image_with_header, read_label_map

logger = logging.getLogger(__name__)


JOINT_FILE = "labels.tif"
"""The cells of all classes, which ``predict`` writes beside a file per class."""

_OTHER_FILE = re.compile(r"(image|ignore)\.tiff?", re.IGNORECASE)
_CLASS_FILE = re.compile(r"class([1-9]\d*)\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class Sample(LabelledImage):
    """One folder of the input layout.

    Attributes:
        id: the folder's name.
        image: ``image.tif``.
        labels: class number 1, 2, ... -> ``class<k>.tif``; classes without cells have none.
        ignore: ``ignore.tif``, regions to ignore.
    """

    id: str
    image: Path
    labels: dict[int, Path]
    ignore: Path | None = None

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; there is a label map per label file."""
        image, stated = read_image_with_header(self.image, rule, max_pixels)
        files = [((number,), path) for number, path in sorted(self.labels.items())]
        layers = [LabelMap(numbers, self._read_labels(path, image, max_pixels)) for numbers, path in files]
        if self.ignore is not None:
            layers.append(ignore_regions(self._read_labels(self.ignore, image, max_pixels), class_count))
        return ImageLabels(image, layers, stated)

    def problems(self, rule: Rule, max_pixels: int, class_count: int) -> list[str]:
        """A line for each file that cannot be used, whereas :meth:`read` stops at the first."""
        bare = replace(self, labels={}, ignore=None)
        unreadable = problem_of(partial(read_image_with_header, self.image, rule, max_pixels))
        parts = [(path, replace(bare, labels={number: path})) for number, path in sorted(self.labels.items())]
        parts += [(self.ignore, replace(bare, ignore=self.ignore))] if self.ignore is not None else []
        found = list(unreadable)
        for path, part in parts:  # beside an image that can be read, sizes are compared too
            alone, beside = partial(read_label_map, path, max_pixels), partial(part.read, rule, max_pixels, class_count)
            found += problem_of(alone if unreadable else beside)
        return found

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
        strange: list[Path] = []
        others: dict[str, Path] = {}
        for file in sorted(entry.iterdir()):
            if match := _CLASS_FILE.fullmatch(file.name):
                first = labels.setdefault(int(match[1]), file)
            elif match := _OTHER_FILE.fullmatch(file.name):
                first = others.setdefault(match[1].lower(), file)
            else:
                strange.append(file)
                continue
            if first != file:
                raise CellSegError(f"{file}: is there beside {first.name}; keep one of the two")
        unknown += [file for file in strange if not (labels and file.name == JOINT_FILE)]
        image = others.get("image", entry / "image.tif")  # its absence is reported when the sample is read
        samples.append(Sample(entry.name, image, labels, others.get("ignore")))
    if not samples:
        raise CellSegError(f"{folder}: holds no samples; put each image in {folder}/<id>/image.tif")
    return samples, unknown


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The labelled images of the input layout, with their classes; warns of files that belong to no sample.

    Raises:
        CellSegError: see :func:`find_samples`; or no sample has a label file.
    """
    samples, unknown = find_samples(root)
    refuse_other_than_utf8(sample.image.parent for sample in samples)
    for path in unknown:
        logger.warning("%s: belongs to no sample, it is left out", path)
    count = max((number for sample in samples for number in sample.labels), default=0)
    if not count:
        raise CellSegError("no sample has a label file; put class1.tif, class2.tif, ... beside each image.tif")
    return LabelledSet(samples, [f"class{number}" for number in range(1, count + 1)])


READER = Reader(
    "class-tiffs",
    "train/<id>/image.tif with a label TIFF per class",
    lambda root: (root / "train").is_dir(),
    find_labelled,
)
