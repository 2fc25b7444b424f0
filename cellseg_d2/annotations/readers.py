"""The table of annotation formats."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from cellseg_d2.annotations import (
    bbbc038,
    cellpose,
    class_tiffs,
    coco,
    coco_exports,
    conic,
    hovernet,
    imagej,
    label_folders,
    labelme,
    lizard,
    mask_pairs,
    monusac,
    monuseg,
    nuinsseg,
    pannuke,
    qupath,
)
from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

_MODULES = (
    class_tiffs,
    coco,
    monusac,
    bbbc038,
    mask_pairs,
    label_folders,
    qupath,
    imagej,
    cellpose,
    labelme,
    coco_exports,
    pannuke,
    conic,
    lizard,
    hovernet,
    monuseg,
    nuinsseg,
)

READERS: Mapping[str, Reader] = {module.READER.name: module.READER for module in _MODULES}
"""By name. The first is the input layout, which no other is guessed for."""


def find_labelled(root: Path, name: str | None = None, annotation_file: Path | None = None) -> LabelledSet:
    """The labelled images of a folder.

    Args:
        root: the folder.
        name: a format of :data:`READERS`, with its options behind it, as in ``qupath:region=Tumour,outline=nucleus``;
            None guesses it, and says so unless it is the first, the input layout.
        annotation_file: the file of formats that keep all annotations in one, such as COCO.

    Raises:
        CellSegError: no such format or option, no labelled image, or images that cannot be told apart.
    """
    if name is None:
        name = _guess(root, annotation_file)
    name, _, text = name.partition(":")
    if name not in READERS:
        raise CellSegError(f"there is no annotation format {name!r}; choose from {', '.join(READERS)}")
    reader = READERS[name]
    options = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
    for option in options.keys() - set(reader.options):
        known = ", ".join(f"{key}=..." for key in reader.options) or "none"
        raise CellSegError(f"the format {name} has no option {option!r}; known are: {known}")
    return reader.find(root, annotation_file, **options)


def _guess(root: Path, annotation_file: Path | None) -> str:
    if annotation_file is not None:
        return coco.READER.name
    first, *others = READERS.values()
    if first.recognises(root):
        return first.name
    likely = [reader for reader in others if reader.recognises(root)]
    if len(likely) > 1:
        names = " or ".join(reader.name for reader in likely)
        raise CellSegError(f"{root}: may be {names}; say which with --format")
    for reader in likely:
        logger.info("%s: read as %s (%s); --format says otherwise", root, reader.name, reader.description)
        return reader.name
    return first.name
