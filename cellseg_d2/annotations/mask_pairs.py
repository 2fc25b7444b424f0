"""Pairs of an image and a label map, ``images/x.tif`` and ``masks/x.tif``, as users of StarDist, BiaPy and napari have.

The classes come from a CSV ``masks/x.csv`` with the columns ``label,class``, from a second plane of the label map with
each pixel's class number, or from folders ``masks/CLASS/x.tif``; without any there is one class.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.pairs import Pair, all_classes, left_out, match_images
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import named
from cellseg_d2.cells.image_names import plain_name
from cellseg_d2.cells.label_maps import LabelMap, split_classes
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.files import visible_entries
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_with_header
from cellseg_d2.images.label_files import LABEL_SUFFIXES, plane_count, read_label_and_class, read_label_file

logger = logging.getLogger(__name__)

IMAGE_FOLDERS = ("images", "image", "raw")
MASK_FOLDERS = ("masks", "mask", "labels", "label")

CLASS_NAME = "cell"


@dataclass(frozen=True)
class MaskPair(LabelledImage):
    """An image with its label maps.

    Attributes:
        id: the image's name.
        image: the image.
        masks: class number 1, 2, ... -> label map of the class; with ``class_table`` or ``class_plane`` one of all.
        class_table: a CSV of each label's class.
        class_plane: whether the label map's second plane has class numbers.
        class_names: the names of class 1, 2, ..., as the CSV has them.
    """

    id: str
    image: Path
    masks: Mapping[int, Path]
    class_table: Path | None = None
    class_plane: bool = False
    class_names: tuple[str, ...] = ()

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        layers: list[LabelMap] = []
        for number, path in sorted(self.masks.items()):
            if self.class_plane:
                labels, classes = read_label_and_class(path, max_pixels)
            else:
                labels = classes = read_label_file(path, max_pixels)
            if labels.shape != image.shape[:2]:
                sizes = f"{size_text(labels.shape)}, its image {size_text(image.shape)}"
                raise CellSegError(f"{path}: is {sizes}; they must be of one size")
            if self.class_plane:
                layers += split_classes(labels, class_of_labels(path, labels, classes))
            elif self.class_table is not None:
                layers += split_classes(labels, self._classes(self.class_table, labels))
            else:
                layers.append(LabelMap((number,), labels))
        return ImageLabels(image, layers, stated)

    def _classes(self, path: Path, labels: NDArray[np.int32]) -> dict[int, int]:
        """Label -> class number, from the CSV."""
        names = read_class_table(path)
        present = set(np.unique(labels[labels > 0]).tolist())
        if missing := sorted(present - names.keys()):
            raise CellSegError(f"{path}: has no class for {named(map(str, missing))} of the labels; add them")
        if unused := sorted(names.keys() - present):
            logger.warning("%s: %s of its labels are not in the label map", path, named(map(str, unused)))
        return {label: self.class_names.index(names[label]) + 1 for label in present}


def class_of_labels(path: Path | str, labels: NDArray[np.int32], classes: NDArray[np.int32]) -> dict[int, int]:
    """Label -> class number, where each pixel has both; a label's pixels are of one class.

    Raises:
        CellSegError: a label has pixels of two classes, or of none.
    """
    inside = labels > 0
    both = np.unique(labels[inside].astype(np.int64) << 32 | classes[inside])
    label_of, classes_of = both >> 32, both & 0xFFFFFFFF
    ids, counts = np.unique(label_of, return_counts=True)
    if (several := ids[counts > 1]).size:
        numbers = " and ".join(map(str, classes_of[label_of == several[0]]))
        raise CellSegError(f"{path}: label {several[0]} has pixels of the classes {numbers}; give it one")
    if (none := ids[classes_of == 0]).size:
        raise CellSegError(f"{path}: has no class for {named(map(str, none))} of the labels; write a number above 0")
    return dict(zip(ids.tolist(), classes_of.tolist()))


def read_class_table(path: Path) -> dict[int, str]:
    """Label -> class name, from a CSV with the columns ``label`` and ``class``; others are not looked at.

    Raises:
        CellSegError: it cannot be read, or a row has no such label, no class, or a label again.
    """
    classes: dict[int, str] = {}
    if not path.is_file():
        raise CellSegError(f"{path}: there is no such file, but other label maps have one; add it")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"label", "class"} <= set(rows.fieldnames or ()):
                raise CellSegError(f"{path}: its first line does not name the columns label and class; add it")
            for row in rows:
                label, name = (row["label"] or "").strip(), (row["class"] or "").strip()
                if not label.isascii() or not label.isdigit() or int(label) == 0 or not name:
                    raise CellSegError(f"{path}: line {rows.line_num} is no label above 0 with a class; correct it")
                if int(label) in classes:
                    raise CellSegError(f"{path}: line {rows.line_num} has the label {label} again; keep one")
                classes[int(label)] = name
    except (OSError, ValueError, csv.Error) as error:
        raise CellSegError(f"{path}: cannot be read as a CSV ({one_line(error)}); save it as UTF-8") from error
    return classes


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with label maps, sorted by id, and their classes; images without one are left out, and noted.

    Raises:
        CellSegError: the two folders are not there, a label map has no image, or a class table cannot be read.
    """
    images, masks = _folder(root, IMAGE_FOLDERS), _folder(root, MASK_FOLDERS)
    if images is None or masks is None:
        raise CellSegError(f"{root}: holds no images folder with a masks folder beside it; give the folder of both")
    files = [path for path in visible_entries(images) if is_image(path)]
    folders = [path for path in visible_entries(masks) if path.is_dir()]
    label_files = _label_files(masks)
    if folders and label_files:
        raise CellSegError(f"{label_files[0]}: lies beside folders of classes; move it into one of them")
    if folders:
        return _classes_by_folder(root, files, folders)
    if not label_files:
        raise CellSegError(f"{masks}: holds no label map, neither TIFF nor PNG; add them, with their images' names")
    pairs = match_images([(plain_name(path), path) for path in label_files], files)
    notes = left_out(root, files, pairs)
    tables = {pair.id: pair.annotations.with_name(f"{plain_name(pair.annotations)}.csv") for pair in pairs}
    if any(table.is_file() for table in tables.values()):
        names = all_classes(list(tables.values()), lambda path: read_class_table(path).values())
        return LabelledSet(
            [MaskPair(pair.id, pair.image, {1: pair.annotations}, tables[pair.id], False, names) for pair in pairs],
            list(names),
            notes,
        )
    with_plane = [path for path in label_files if _has_class_plane(path)]
    return LabelledSet(
        [MaskPair(pair.id, pair.image, {1: pair.annotations}, class_plane=bool(with_plane)) for pair in pairs],
        _plane_names(with_plane),
        notes,
    )


def _folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _label_files(folder: Path) -> list[Path]:
    return [path for path in visible_entries(folder) if path.suffix.lower() in LABEL_SUFFIXES and path.is_file()]


def _classes_by_folder(root: Path, images: Sequence[Path], folders: Sequence[Path]) -> LabelledSet:
    """Each folder is a class; an image has a label map in one of them at least."""
    masks: dict[Path, dict[int, Path]] = {}
    pairs: list[Pair] = []
    for number, folder in enumerate(folders, start=1):
        matched = match_images([(plain_name(path), path) for path in _label_files(folder)], images)
        for pair in matched:
            masks.setdefault(pair.image, {})[number] = pair.annotations
        pairs += matched
    notes = left_out(root, images, pairs)
    ids = {pair.image: pair.id for pair in pairs}
    samples = [MaskPair(ids[image], image, label_maps) for image, label_maps in masks.items()]
    return LabelledSet(sorted(samples, key=lambda sample: sample.id), [folder.name for folder in folders], notes)


def _has_class_plane(path: Path) -> bool:
    try:
        return plane_count(path) == 2
    except CellSegError:  # reported when its image is read
        return False


def _plane_names(paths: Sequence[Path]) -> list[str]:
    """The names of as many classes as second planes have; one class where there are none."""
    if not paths:
        return [CLASS_NAME]
    numbers = all_classes(paths, lambda path: map(str, np.unique(read_label_and_class(path)[1])))
    return [f"class{number}" for number in range(1, max(1, int(numbers[-1])) + 1)]


def _recognises(root: Path) -> bool:
    """Whether there are the two folders, and label maps where they may lie; :mod:`.label_folders` has other names."""
    masks = _folder(root, MASK_FOLDERS)
    if masks is None or _folder(root, IMAGE_FOLDERS) is None:
        return False
    found = [path for level in ("*", "*/*") for path in masks.glob(level) if path.suffix.lower() in LABEL_SUFFIXES]
    return bool(found) and not all(re.fullmatch(r"class\d+|labels", path.stem) for path in found)


READER = Reader(
    "mask-pairs",
    "images/x.tif (PNG, JPEG) with a label map masks/x.tif (PNG); classes from masks/x.csv, a plane or masks/CLASS/",
    _recognises,
    find_labelled,
)
