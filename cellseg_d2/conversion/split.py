"""Training and validation images: split by source image, so that rare classes are in both parts."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)


def stratified_split(
    cells: Mapping[str, Mapping[int, int]], val_fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits images so that each class has about ``val_fraction`` of its images in validation.

    The images of the rarest class are dealt first, then those left of the next class, after iterative stratification
    (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011). A class that two or more images have is in both parts wherever
    moving one image can bring it there; a class that only one image has goes to training, with a warning. The result
    depends on the ids, the counts and the seed alone, never on the order they come in.

    Args:
        cells: image id -> class number -> number of cells.
        val_fraction: in [0, 1); 0 makes no validation part.
        seed: random seed for the shuffle.

    Returns:
        Ids of the training images and of the validation images, each sorted.
    """
    ids = sorted(cells)
    if val_fraction == 0 or len(ids) < 2:
        return ids, []
    rng = np.random.default_rng(seed)
    shuffled = [ids[number] for number in rng.permutation(len(ids))]
    having = {
        number: [image for image in shuffled if cells[image].get(number, 0)]
        for number in sorted({number for counts in cells.values() for number, count in counts.items() if count})
    }
    val: set[str] = set()
    dealt: set[str] = set()
    for number in sorted(having, key=lambda number: (len(having[number]), number)):
        wanted = _share(len(having[number]), val_fraction) - len(val.intersection(having[number]))
        left = [image for image in having[number] if image not in dealt]
        val.update(left[: max(wanted, 0)])
        dealt.update(left)
        if len(having[number]) == 1:
            logger.warning("class %d is in one image only (%s); it goes to training", number, having[number][0])
    without_cells = [image for image in shuffled if image not in dealt]
    val.update(without_cells[: max(_share(len(ids), val_fraction) - len(val), 0)])
    _repair(val, having)
    return [image for image in ids if image not in val], sorted(val)


def _share(count: int, fraction: float) -> int:
    """How many of ``count`` images go to validation: at least one and not all, where there are two or more."""
    return 0 if count < 2 else min(max(round(count * fraction), 1), count - 1)


def _repair(val: set[str], having: Mapping[int, list[str]]) -> None:
    """Moves single images to bring a class with two or more into both parts, where no other class loses by it."""

    def complete(part: set[str]) -> set[int]:
        """Classes that are as they should be: in both parts, or, with one image, in training."""
        counts = {number: (len(part.intersection(images)), len(images)) for number, images in having.items()}
        return {number for number, (own, total) in counts.items() if (own == 0 if total == 1 else 0 < own < total)}

    for number, images in having.items():
        if number in complete(val):
            continue
        for image in images:
            moved = val ^ {image}
            if complete(moved) > complete(val):
                val.symmetric_difference_update({image})
                break


@dataclass(frozen=True)
class SplitFile:
    """What a user's CSV says of each image.

    Attributes:
        parts: image id -> ``train`` or ``val``; empty where the file names groups only.
        groups: image id -> group, such as the patient, that must not be on both sides; empty where it names none.
    """

    parts: dict[str, str]
    groups: dict[str, str]


def read_split_file(path: Path, ids: Collection[str]) -> SplitFile:
    """Reads a CSV with the columns ``id``, ``split`` and, optionally, ``group``.

    ``split`` is ``train`` or ``val`` in every row, or left empty in every row: then the groups are dealt out.

    Args:
        path: the CSV, with a header.
        ids: the ids of all images; each must be in the file once.

    Raises:
        CellSegError: a column is missing, an image is missing, unknown or twice, a value is another, or a group is on
            both sides.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CellSegError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise CellSegError(f"{path}: needs a header with the columns id,split or id,split,group, and rows")
    counts = Counter(row["id"] for row in rows)
    wrong = [f"{name!r} is there twice" for name, count in counts.items() if count > 1]
    wrong += [f"{name!r} is no image of the input" for name in counts if name not in ids]
    wrong += [f"{name!r} has no row" for name in sorted(ids) if name not in counts]
    parts = {row["id"]: row["split"] for row in rows}
    groups = {row["id"]: row["group"] for row in rows if row.get("group")}
    values = set(parts.values())
    if values != {""} and not values <= {"train", "val"}:
        wrong.append(f"split is {sorted(values)}; write train or val in every row, or nothing in any")
    if values == {""} and len(groups) != len(parts):
        wrong.append("split is empty, so every row needs a group")
    if values != {""}:
        for group in sorted(set(groups.values())):
            if len({parts[image] for image, own in groups.items() if own == group}) > 1:
                wrong.append(f"group {group!r} is in train and in val")
    if wrong:
        raise CellSegError(f"{path}: {wrong[0]}{f' ({len(wrong)} mistakes)' if len(wrong) > 1 else ''}")
    return SplitFile({} if values == {""} else parts, groups)


def groups_as_split(ids: Collection[str], groups: Mapping[str, str]) -> SplitFile | None:
    """The split that keeps groups together, such as the images of one patient; None where no image has a group.

    Args:
        ids: the ids of all images; those without a group are a group of their own.
        groups: image id -> group.
    """
    known = {image: groups.get(image) or f"image {image}" for image in ids}
    return SplitFile({}, known) if any(image in groups for image in ids) else None


def split_images(
    cells: Mapping[str, Mapping[int, int]], val_fraction: float, seed: int, file: SplitFile | None = None
) -> tuple[list[str], list[str]]:
    """:func:`stratified_split`, or the user's own: its parts as they are, or its groups dealt out as wholes."""
    if file is None:
        return stratified_split(cells, val_fraction, seed)
    parts = file.parts
    if not parts:
        members: dict[str, Counter[int]] = {}
        for image, counts in cells.items():
            members.setdefault(file.groups[image], Counter()).update(counts)
        _, val_groups = stratified_split(members, val_fraction, seed)
        parts = {image: "val" if file.groups[image] in val_groups else "train" for image in cells}
    train = sorted(image for image in cells if parts[image] == "train")
    return train, sorted(image for image in cells if parts[image] == "val")
