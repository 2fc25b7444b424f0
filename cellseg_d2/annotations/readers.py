"""The table of annotation formats."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from cellseg_d2.annotations import bbbc038, class_tiffs, coco, mask_pairs, monusac
from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

READERS: Mapping[str, Reader] = {
    reader.name: reader
    for reader in (class_tiffs.READER, coco.READER, monusac.READER, bbbc038.READER, mask_pairs.READER)
}
"""By name. The first is the input layout, which no other is guessed for."""


def find_labelled(root: Path, name: str | None = None, annotation_file: Path | None = None) -> LabelledSet:
    """The labelled images of a folder.

    Args:
        root: the folder.
        name: a format of :data:`READERS`; None guesses it, and says so unless it is the first, the input layout.
        annotation_file: the file of formats that keep all annotations in one, such as COCO.

    Raises:
        CellSegError: no such format, no labelled image, or images that cannot be told apart.
    """
    if name is None:
        name = _guess(root, annotation_file)
    if name not in READERS:
        raise CellSegError(f"there is no annotation format {name!r}; choose from {', '.join(READERS)}")
    return READERS[name].find(root, annotation_file)


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
