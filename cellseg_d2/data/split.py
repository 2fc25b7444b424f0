"""Training and validation images: split by source image, so that rare classes are in both parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

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
        seed: of the shuffle.

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
