"""Cellpose's masks, ``x_seg.npy`` of its GUI or ``x_cp_masks.png``, beside the image ``x.tif``."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg_d2.annotations.pairs import has_files, left_out, list_files, match_images
from cellseg_d2.annotations.reader import ImageLabels, LabelledImage, LabelledSet, Reader
from cellseg_d2.annotations.shapes import named
from cellseg_d2.array_pickle import load_arrays
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError, one_line, size_text
from cellseg_d2.images.channels import Rule
from cellseg_d2.images.formats import is_image, read_whole
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
        masks: ``x_seg.npy``, or the label map.
    """

    id: str
    image: Path
    masks: Path

    def read(self, rule: Rule, max_pixels: int, class_count: int) -> ImageLabels:
        """See :meth:`LabelledImage.read`; labels are Cellpose's."""
        image = read_whole(self.image, rule, max_pixels)
        labels = read_seg(self.masks) if _is_seg(self.masks) else read_label_file(self.masks, max_pixels)
        if labels.shape != image.shape[:2]:
            sizes = f"{size_text(labels.shape)}, its image {size_text(image.shape)}"
            raise CellSegError(f"{self.masks}: is {sizes}; they must be of one size")
        return ImageLabels(image, [LabelMap((1,), labels)])


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


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with masks, sorted by id, of one class; ``x_seg.npy`` is taken where there is ``x_cp_masks.png`` too.

    Raises:
        CellSegError: no masks are found, or some have no image.
    """
    files = [path for path in list_files(root) if not OUTPUTS.fullmatch(path.name)]
    by_place: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        if match := MASKS.fullmatch(path.name):
            by_place[path.parent, match["name"]].append(path)
    if not by_place:
        raise CellSegError(f"{root}: holds no *_seg.npy and no *_cp_masks.png or .tif, nor does a folder in it")
    chosen = [(name, max(paths, key=_is_seg)) for (_, name), paths in by_place.items()]
    unused = {path for paths in by_place.values() for path in paths} - {path for _, path in chosen}
    if unused:
        names = named(path.name for path in sorted(unused))
        logger.info("%s: beside a _seg.npy, which is read instead: %s", root, names)
    images = [path for path in files if is_image(path) and not MASKS.fullmatch(path.name)]
    pairs = match_images(chosen, images)
    return LabelledSet([CellposeImage(*pair) for pair in pairs], [CLASS_NAME], left_out(root, images, pairs))


def _is_seg(path: Path) -> bool:
    return path.name.lower().endswith(SEG)


READER = Reader(
    "cellpose",
    "x_seg.npy of Cellpose's GUI, x_cp_masks.png (TIFF) or x_masks.tif beside an image x.tif",
    has_files("*_seg.npy", "*_cp_masks.png", "*_cp_masks.tif"),
    find_labelled,
)
