"""COCO as CVAT and Label Studio export it: the file in its place, and images elsewhere than it says.

CVAT writes ``annotations/instances_default.json``, with names below ``images``; Label Studio ``result.json``, with its
server's names. What is drawn with CVAT's brush is marked ``iscrowd``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import cast

from cellseg_d2.annotations.coco import CocoSample, find_coco_samples
from cellseg_d2.annotations.reader import LabelledSet, Reader
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import refuse_other_than_utf8, visible_entries
from cellseg_d2.images.formats import is_image

logger = logging.getLogger(__name__)

FILES = ("annotations/instances_*.json", "instances_*.json", "result.json")

IMAGES = "images"
UPLOAD_HASH = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""


def find_labelled(root: Path, annotation_file: Path | None = None, crowd: str = "cells") -> LabelledSet:
    """The images of an export, sorted by id, with its categories.

    Args:
        root: the folder that the export was unpacked to; images lie in it or below.
        annotation_file: the COCO file; None finds it.
        crowd: ``cells``, or ``ignore`` to take what is marked ``iscrowd`` for regions to ignore.

    Raises:
        CellSegError: no file, several of them, or an image is missing or not clear; see also
            :func:`cellseg_d2.annotations.coco.find_coco_samples`.
    """
    if crowd not in ("cells", "ignore"):
        raise CellSegError(f"crowd={crowd} is not known; write crowd=cells or crowd=ignore")
    path = annotation_file or _only_file(root)
    export = find_coco_samples(path, root, partial(_locate, path, root, _images_below(root)))
    found = [replace(sample, id=_id(root, sample.image)) for sample in cast("Sequence[CocoSample]", export.images)]
    for name, count in Counter(sample.id for sample in found).items():
        if count > 1:
            raise CellSegError(f"{path}: has two images of the name {name}; rename one of them")
    refuse_other_than_utf8(sample.image for sample in found)
    if crowd == "cells":
        found = _without_crowds(path, found)
    return replace(export, images=sorted(found, key=lambda sample: sample.id))


def _only_file(root: Path) -> Path:
    files = sorted({path for pattern in FILES for path in root.glob(pattern)})
    if not files:
        raise CellSegError(
            f"{root}: holds no annotations/instances_*.json and no result.json; name it with --from-coco"
        )
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in files)
        raise CellSegError(f"{root}: holds {names}; choose one with --from-coco")
    return files[0]


def _images_below(root: Path) -> dict[str, list[Path]]:
    """Images in and below a folder by their file names."""
    images: defaultdict[str, list[Path]] = defaultdict(list)
    waiting = [root]
    while waiting:
        for entry in visible_entries(waiting.pop()):
            if is_image(entry):
                images[entry.name].append(entry)
            elif entry.is_dir():
                waiting.append(entry)
    return images


def _locate(path: Path, root: Path, images: dict[str, list[Path]], file_name: str) -> Path:
    """The file that is meant: of the stated name, in ``images`` if there is one, and with its folders."""
    stated = PurePosixPath(file_name.replace("\\", "/"))
    plain = UPLOAD_HASH.sub("", stated.name)
    candidates = sorted(images.get(stated.name) or images.get(plain) or [])
    candidates = [image for image in candidates if image.is_relative_to(root / IMAGES)] or candidates
    if not candidates:
        raise CellSegError(f"{path}: its image {stated} is not in {root}; put it into {root / IMAGES}")
    likeness = [_common_end(stated.parts, image.parts) for image in candidates]
    best = [image for image, like in zip(candidates, likeness) if like == max(likeness)]
    if len(best) > 1:
        raise CellSegError(f"{path}: its image {stated} may be {best[0]} or {best[1]}; keep one of the two")
    return best[0]


def _id(root: Path, image: Path) -> str:
    """An image's id: its path below ``root``, without the folder ``images``."""
    parts = image.relative_to(root).with_suffix("").parts
    return "_".join(parts[1:] if parts[0] == IMAGES and len(parts) > 1 else parts)


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second)):
        if one != other:
            break
        count += 1
    return count


def _without_crowds(path: Path, samples: Sequence[CocoSample]) -> list[CocoSample]:
    count = sum(cell.crowd for sample in samples for cell in sample.cells)
    if count:
        logger.info("%s: %d masks marked iscrowd are read as cells, as CVAT marks what its brush drew", path, count)
    return [replace(sample, cells=[replace(cell, crowd=False) for cell in sample.cells]) for sample in samples]


READER = Reader(
    "coco-export",
    "CVAT's annotations/instances_default.json or Label Studio's result.json, with images in or below the folder; "
    "crowd=ignore: what is marked iscrowd is no cell",
    lambda root: any(any(root.glob(pattern)) for pattern in FILES),
    find_labelled,
    ("crowd",),
)
