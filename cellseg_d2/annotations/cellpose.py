"""Cellpose's masks, ``x_seg.npy`` of its GUI or ``x_cp_masks.png``, beside the image ``x.tif``."""

from __future__ import annotations

import filecmp
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.pairs import Pair, has_files, left_out, list_files, match_images
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import named
from cellseg_d2.array_pickle import load_arrays
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_with_header
from cellseg_d2.images.label_files import read_label_file
from cellseg_d2.images.tiff import as_labels, check_file

logger = logging.getLogger(__name__)

CLASS_NAME = "cell"

SEG = "_seg.npy"
MASKS = re.compile(r"(?P<name>.+?)(_seg\.npy|_(cp_)?masks\.(png|tiff?))", re.IGNORECASE)
OUTPUTS = re.compile(
    r".+_(cp_flows|flows|dP|cp_outlines?|outlines|outlines_cp|cp_output)(_cp_masks)?\.\w+", re.IGNORECASE
)
"""Pictures that Cellpose saves beside; they are neither images nor masks."""


@dataclass(frozen=True)
class CellposeImage(LabelledImage):
    """An image with its masks.

    Attributes:
        id: the image's name.
        image: the image.
        masks: class number 1, 2, ... -> ``x_seg.npy``, or the label map.
    """

    id: str
    image: Path
    masks: Mapping[int, Path]

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; labels are Cellpose's."""
        image, stated = read_with_header(self.image, rule, max_pixels)
        layers = []
        for number, path in sorted(self.masks.items()):
            labels = read_seg(path) if _is_seg(path) else read_label_file(path, max_pixels)
            if labels.shape != image.shape[:2]:
                sizes = f"{size_text(labels.shape)}, its image {size_text(image.shape)}"
                raise CellSegError(f"{path}: is {sizes}; they must be of one size")
            layers.append(LabelMap((number,), labels))
        return ImageLabels(image, layers, stated)


def read_seg(path: Path) -> NDArray[np.int32]:
    """The masks of a ``_seg.npy``, a pickled dict; no code in it is run.

    Raises:
        CellSegError: it cannot be read, holds more than arrays and built-in containers, or no masks of one plane.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            form: Any = np.lib.format  # whose functions have no types
            read_header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
            shape, _, dtype = read_header[form.read_magic(file)](file)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"it holds an array of {dtype}, no dict")
            masks = load_arrays(file, objects=True)["masks"]
    except Exception as error:  # a damaged pickle raises anything
        reason = f"{type(error).__name__}: {one_line(error, 150)}"
        raise CellSegError(f"{path}: is no _seg.npy of Cellpose ({reason}); save it there again") from error
    if not isinstance(masks, np.ndarray) or masks.squeeze().ndim != 2:
        raise CellSegError(f"{path}: its masks are not of one plane; save each plane as an image of its own")
    return as_labels(path, masks.squeeze())


def find_labelled(root: Path, annotation_file: Path | None = None, class_from: str = "") -> LabelledSet:
    """The images with masks, sorted by id; ``x_seg.npy`` is taken where there is ``x_cp_masks.png`` too.

    Args:
        root: the folder of both, or of their folders.
        annotation_file: not used.
        class_from: ``folder``, where each folder with masks is a class, as ``predict`` writes them; else there is one
            class. The image may lie in each of these folders, or once in another.

    Raises:
        CellSegError: no masks are found, some have no image, or folders look like classes that were not asked for.
    """
    if class_from not in ("", "folder", "one"):
        raise CellSegError(f"class_from={class_from} is not known; write class_from=folder or class_from=one")
    depth = 2 if class_from == "folder" else 1
    files = [path for path in list_files(root, depth) if not OUTPUTS.fullmatch(path.name)]
    by_place: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        if match := MASKS.fullmatch(path.name):
            by_place[path.parent, match["name"]].append(path)
    if not by_place:
        raise CellSegError(
            f"{root}: holds no *_seg.npy and no *_cp_masks.png or .tif, nor does a folder in it; what predict "
            "writes, a folder for each class, is read with --format cellpose:class_from=folder"
        )
    chosen = [(name, max(paths, key=_is_seg)) for (_, name), paths in by_place.items()]
    unused = {path for paths in by_place.values() for path in paths} - {path for _, path in chosen}
    if unused:
        names = named(path.name for path in sorted(unused))
        logger.info("%s: beside a _seg.npy, which is read instead: %s", root, names)
    images = [path for path in files if is_image(path) and not MASKS.fullmatch(path.name)]
    if class_from == "folder":
        return _classes_by_folder(root, chosen, images)
    if class_from == "":
        _refuse_folders_of_one_image(chosen, images)
    pairs = match_images(chosen, images)
    found = [CellposeImage(pair.id, pair.image, {1: pair.annotations}) for pair in pairs]
    return LabelledSet(found, [CLASS_NAME], left_out(root, images, pairs))


def _classes_by_folder(root: Path, masks: Sequence[tuple[str, Path]], images: Sequence[Path]) -> LabelledSet:
    """Each folder with masks is a class; an image has masks in one of them at least."""
    if stray := [path for _, path in masks if path.parent == root]:
        raise CellSegError(f"{stray[0]}: lies beside folders of classes; move it into one of them")
    folders = sorted({path.parent for _, path in masks})
    images = [image for image in images if image.parent in folders or len(image.relative_to(root).parts) < 3]
    found: dict[str, CellposeImage] = {}
    pairs: list[Pair] = []
    for number, folder in enumerate(folders, start=1):
        matched = match_images([(name, path) for name, path in masks if path.parent == folder], images)
        pairs += matched
        for pair in matched:
            first = found.setdefault(pair.id, CellposeImage(pair.id, pair.image, {}))
            found[pair.id] = replace(first, masks={**first.masks, number: pair.annotations})
    shown = {pair.image.name for pair in pairs}  # an image lies in each folder, or in one beside them
    notes = left_out(root, [image for image in images if image.name not in shown], pairs)
    return LabelledSet([found[name] for name in sorted(found)], [folder.name for folder in folders], notes)


def _refuse_folders_of_one_image(masks: Sequence[tuple[str, Path]], images: Sequence[Path]) -> None:
    """Raises CellSegError where an image has masks in two folders: as two images each would miss the other's cells."""
    of_name: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in masks:
        of_name[name].append(path)
    for name, (first, *others) in of_name.items():
        for other in others:
            one, two = (_beside(path, name, images) for path in (first, other))
            if one is None or two is None or filecmp.cmp(one, two, shallow=False):
                raise CellSegError(
                    f"{other}: is of the same image as {first}; where folders are classes, as predict writes them, "
                    "add --format cellpose:class_from=folder, else keep one of the two"
                )


def _beside(path: Path, name: str, images: Sequence[Path]) -> Path | None:
    return next((image for image in images if image.parent == path.parent and image.stem == name), None)


def _is_seg(path: Path) -> bool:
    return path.name.lower().endswith(SEG)


READER = Reader(
    "cellpose",
    "x_seg.npy of Cellpose's GUI, x_cp_masks.png (TIFF) or x_masks.tif beside an image x.tif; class_from=folder: "
    "each folder of these is a class",
    has_files("*_seg.npy", "*_cp_masks.png", "*_cp_masks.tif"),
    find_labelled,
    ("class_from",),
)
