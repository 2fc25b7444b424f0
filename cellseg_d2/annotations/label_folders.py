"""Label TIFFs as ``predict`` writes them, ``labels/x/class<k>.tif`` of the image ``images/x.tif``."""

from __future__ import annotations

import re
from pathlib import Path

from cellseg_d2.annotations.mask_pairs import MaskPair
from cellseg_d2.annotations.pairs import left_out, list_files, match_images
from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json, visible_entries
from cellseg_d2.images.formats import is_image
from cellseg_d2.images.listing import RESULTS_RECORD

FOLDER = "labels"
CLASS_FILE = re.compile(r"class([1-9]\d*)\.tiff?", re.IGNORECASE)


def find_labelled(root: Path, annotation_file: Path | None = None) -> LabelledSet:
    """The images with a folder of label maps, sorted by id.

    The classes are those of ``prediction.json``, which ``predict`` writes beside; without it they are ``class1``, ...

    Raises:
        CellSegError: there are no such folders, or one has no image.
    """
    folder = root / FOLDER
    entries = visible_entries(folder) if folder.is_dir() else []
    masks = {entry: found for entry in entries if entry.is_dir() and (found := _class_files(entry))}
    if not masks:
        raise CellSegError(
            f"{folder}: holds no x/class1.tif, as predict writes them; give the folder that labels is in"
        )
    images = [path for path in list_files(root) if is_image(path) and path.parent != folder]
    pairs = match_images([(entry.name, entry) for entry in masks], images)
    samples = [MaskPair(pair.id, pair.image, masks[pair.annotations]) for pair in pairs]
    count = max(number for found in masks.values() for number in found)
    return LabelledSet(samples, _class_names(root, count), left_out(root, images, pairs))


def _class_files(folder: Path) -> dict[int, Path]:
    matches = {path: CLASS_FILE.fullmatch(path.name) for path in visible_entries(folder)}
    return {int(match[1]): path for path, match in matches.items() if match}


def _class_names(root: Path, count: int) -> list[str]:
    record = root / RESULTS_RECORD
    content = read_json(record) if record.is_file() else None
    names = content.get("class_names") if isinstance(content, dict) else None
    if isinstance(names, list) and len(names) >= count and all(isinstance(name, str) for name in names):
        return names
    return [f"class{number}" for number in range(1, count + 1)]


READER = Reader(
    "labels",
    "images/x.tif with labels/x/class1.tif, class2.tif, ..., as predict writes them",
    lambda root: any(CLASS_FILE.fullmatch(path.name) for path in root.glob(f"{FOLDER}/*/class*")),
    find_labelled,
)
