"""Folds for cross-validation: each image is in the validation part of one, and in the training part of all others."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cellseg_d2.cells.coco import Record
from cellseg_d2.conversion.parts import TiledSample, Whole, write_annotations, write_wholes
from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)


def deal_folds(
    cells: Mapping[str, Mapping[int, int]],
    count: int,
    seed: int,
    groups: Mapping[str, str] | None = None,
    fixed: Mapping[str, int] | None = None,
) -> list[list[str]]:
    """Deals images to folds so that these have about as many images of each class, and about as many images.

    The images of the rarest class are dealt first, each to the fold that lacks most of this class, after iterative
    stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011). The result depends only on the ids, the counts
    and the seed, not on the order of the images.

    Args:
        cells: image id -> class number -> number of cells.
        count: the number of folds.
        seed: random seed for the shuffle.
        groups: image id -> group, such as the patient, whose images stay together.
        fixed: image id -> the fold, from 0, in which it stays.

    Returns:
        The ids of the validation images of each fold, sorted.

    Raises:
        CellSegError: there are fewer images, or groups, than folds.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for image in sorted(cells):
        members[(groups or {}).get(image) or f"image {image}"].append(image)
    if len(members) < count:
        raise CellSegError(f"--folds {count}: there are {len(members)} images or groups to deal; give fewer folds")
    having = {
        unit: Counter(number for image in images for number, cell_count in cells[image].items() if cell_count)
        for unit, images in members.items()
    }
    totals = sum(having.values(), Counter[int]())
    order = np.random.default_rng(seed).permutation(len(members))
    shuffled = [sorted(members)[place] for place in order]
    shuffled.sort(key=lambda unit: -len(members[unit]))  # large groups first, so that small ones level them out
    folds: list[list[str]] = [[] for _ in range(count)]
    counts = [Counter[int]() for _ in range(count)]
    left = dict.fromkeys(shuffled)

    def deal(unit: str, place: int) -> None:
        for image in members[unit]:
            folds[(fixed or {}).get(image, place)].append(image)
        counts[place].update(having[unit])
        del left[unit]

    for unit in shuffled:
        places = [fixed[image] for image in members[unit] if image in fixed] if fixed else []
        if places:
            deal(unit, places[0])
    for number in sorted(totals, key=lambda number: (totals[number], number)):
        if sum(having[unit][number] > 0 for unit in having) == 1:
            logger.warning("class %d is in one image or group only; in its fold, no training image has it", number)
        for unit in [unit for unit in left if having[unit][number]]:
            deal(unit, min(range(count), key=lambda place: (counts[place][number], len(folds[place]), place)))
    for unit in list(left):
        deal(unit, min(range(count), key=lambda place: (len(folds[place]), place)))
    return [sorted(fold) for fold in folds]


def write_folds(
    folder: Path,
    samples: Sequence[TiledSample],
    parts: Mapping[str, str],
    folds: Sequence[Sequence[str]],
    wholes: Mapping[str, Whole],
    names: Sequence[str],
) -> list[Record]:
    """Writes the annotations of each fold, whose pictures are those of the dataset's parts, and of all untiled images.

    An untiled image has the same id in all of these files.

    Args:
        folder: the dataset's folder.
        samples: its images.
        parts: image id -> the part whose folder has its tiles.
        folds: the ids of the validation images of each fold.
        wholes: the untiled images by id.
        names: the names of class 1, 2, ...

    Returns:
        For each fold the ids of its validation images, and counts as of the parts.
    """
    ids = {name: number for number, name in enumerate(sorted(wholes), start=1)}
    numbered = {name: ({"id": ids[name], **image}, cells) for name, (image, cells) in wholes.items()}
    annotations = folder / "annotations"
    write_wholes(annotations / "instances_whole.json", [numbered[name] for name in ids], names)
    described = []
    for number, fold in enumerate(folds, start=1):
        chosen = set(fold)
        by_part = {
            "train": [sample for sample in samples if sample.id not in chosen],
            "val": [sample for sample in samples if sample.id in chosen],
        }
        counts = {
            part: write_annotations(annotations / f"instances_fold{number}_{part}.json", of_part, parts, names)
            for part, of_part in by_part.items()
        }
        write_wholes(
            annotations / f"instances_fold{number}_val_whole.json", [numbered[name] for name in sorted(fold)], names
        )
        described.append({"val": list(fold), "counts": counts})
    return described
