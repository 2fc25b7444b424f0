"""Splits images into training and validation, by source image, so that both parts have rare classes."""

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
    cells: Mapping[str, Mapping[int, int]], val_fraction: float, seed: int, fixed: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Splits images so that each class has about ``val_fraction`` of its images in validation.

    The images of the rarest class are distributed first, then the remaining ones of the next class, after iterative
    stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011). A class in two or more images is in both parts
    if moving one image can achieve that. A class in one image only goes to training, with a warning. The result
    depends only on the ids, the counts and the seed, not on the order of the images.

    Args:
        cells: image id -> class number -> number of cells.
        val_fraction: in [0, 1); 0 gives no validation part.
        seed: random seed for the shuffle.
        fixed: ids of images that stay where they are -> ``train`` or ``val``; the others are dealt so that all together
            come as close as they can to what is asked for.

    Returns:
        Ids of the training images and of the validation images, each sorted.
    """
    ids = sorted(cells)
    dealt = set(fixed or ())
    val = {image for image in dealt if fixed and fixed[image] == "val"}
    if val_fraction == 0 or len(ids) < 2:
        return [image for image in ids if image not in val], sorted(val)
    rng = np.random.default_rng(seed)
    shuffled = [ids[number] for number in rng.permutation(len(ids))]
    having = {
        number: [image for image in shuffled if cells[image].get(number, 0)]
        for number in sorted({number for counts in cells.values() for number, count in counts.items() if count})
    }
    movable = set(ids) - dealt
    for number in sorted(having, key=lambda number: (len(having[number]), number)):
        wanted = _share(len(having[number]), val_fraction) - len(val.intersection(having[number]))
        left = [image for image in having[number] if image not in dealt]
        val.update(left[: max(wanted, 0)])
        dealt.update(left)
        if len(having[number]) == 1 and movable.issuperset(having[number]):
            logger.warning("class %d is in one image only (%s); it goes to training", number, having[number][0])
    without_cells = [image for image in shuffled if image not in dealt]
    val.update(without_cells[: max(_share(len(ids), val_fraction) - len(val), 0)])
    _repair(val, having, movable)
    return [image for image in ids if image not in val], sorted(val)


def _share(count: int, fraction: float) -> int:
    """How many of ``count`` images go to validation; from two images on at least one, but not all."""
    return 0 if count < 2 else min(max(round(count * fraction), 1), count - 1)


def _repair(val: set[str], having: Mapping[int, list[str]], movable: Collection[str]) -> None:
    """Moves single images so that classes with two or more are in both parts, where no other class loses by it.

    Args:
        val: the validation images, which are changed in place.
        having: class number -> its images.
        movable: the images that may be moved.
    """

    def complete(part: set[str]) -> set[int]:
        """Classes that are well placed: in both parts or, if only one image has them, in training."""
        counts = {number: (len(part.intersection(images)), len(images)) for number, images in having.items()}
        return {
            number for number, (in_val, total) in counts.items() if (in_val == 0 if total == 1 else 0 < in_val < total)
        }

    for number, images in having.items():
        if number in complete(val):
            continue
        for image in (image for image in images if image in movable):
            moved = val ^ {image}
            if complete(moved) > complete(val):
                val.symmetric_difference_update({image})
                break


@dataclass(frozen=True)
class SplitFile:
    """The content of a user's split file.

    Attributes:
        parts: image id -> ``train`` or ``val``; empty where the file names groups only.
        groups: image id -> group, such as the patient, which must not be in both parts; empty where it names none.
    """

    parts: dict[str, str]
    groups: dict[str, str]


def read_split_file(path: Path, ids: Collection[str], others: Collection[str] = ()) -> SplitFile:
    """Reads a CSV with the columns ``id``, ``split`` and, optionally, ``group``.

    ``split`` is ``train`` or ``val`` in every row, or empty in every row; then whole groups are distributed.

    Args:
        path: the CSV, with a header.
        ids: the ids of all images; each must be in the file once.
        others: ids that may be in the file too.

    Raises:
        CellSegError: a column is missing, an image is missing, unknown or there twice, a value is not allowed, or a
            group is in both parts.
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
    wrong += [f"{name!r} is no image of the input" for name in counts if name not in ids and name not in others]
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
            if len({parts[image] for image, group_of_image in groups.items() if group_of_image == group}) > 1:
                wrong.append(f"group {group!r} is in train and in val")
    if wrong:
        raise CellSegError(f"{path}: {wrong[0]}{f' ({len(wrong)} mistakes)' if len(wrong) > 1 else ''}")
    return SplitFile({} if values == {""} else parts, groups)


def groups_as_split(ids: Collection[str], groups: Mapping[str, str]) -> SplitFile | None:
    """The split that keeps groups together, such as the images of one patient; None where no image has a group.

    Args:
        ids: the ids of all images; each image without a group counts as one group.
        groups: image id -> group.
    """
    known = {image: groups.get(image) or f"image {image}" for image in ids}
    return SplitFile({}, known) if any(image in groups for image in ids) else None


def split_images(
    cells: Mapping[str, Mapping[int, int]],
    val_fraction: float,
    seed: int,
    file: SplitFile | None = None,
    fixed: Mapping[str, str] | None = None,
) -> tuple[list[str], list[str]]:
    """The user's split, if it names parts; else :func:`stratified_split`, which keeps groups together if it has any.

    Images that are ``fixed`` to ``train`` or ``val`` stay there, and so do groups with an image that is.
    """
    fixed = fixed or {}
    if file is None:
        return stratified_split(cells, val_fraction, seed, fixed)
    parts = {**file.parts, **fixed}
    if not file.parts:
        members: dict[str, Counter[int]] = {}
        for image, counts in cells.items():
            members.setdefault(file.groups[image], Counter()).update(counts)
        places = {file.groups[image]: part for image, part in sorted(fixed.items()) if image in cells}
        _, val_groups = stratified_split(members, val_fraction, seed, places)
        dealt = {image: "val" if file.groups[image] in val_groups else "train" for image in cells}
        parts = dealt | dict(fixed)
    train = sorted(image for image in cells if parts[image] == "train")
    return train, sorted(image for image in cells if parts[image] == "val")
