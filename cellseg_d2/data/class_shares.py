"""How many cells of each class training sees, and how measures for rare classes change that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cells_by_tile_and_class(dicts: Sequence[dict[str, Any]], classes: int) -> NDArray[np.int64]:
    """Numbers of cells, without crowds: (T, K) for T dicts of Detectron2's dataset format and K classes."""
    learnt = ([cell["category_id"] for cell in sample["annotations"] if not cell.get("iscrowd", 0)] for sample in dicts)
    return np.stack([np.bincount(np.array(tile, np.int64), minlength=classes) for tile in learnt])


def share_changes(before: NDArray[Any], after: NDArray[Any]) -> list[str]:
    """How each class's share of all cells changes between two (K,) numbers of cells.

    >>> share_changes(np.array([9, 1]), np.array([9.0, 3.0]))
    ['90.0 -> 75.0 %', '10.0 -> 25.0 %']
    """
    plain, changed = (100 * cells / max(cells.sum(), 1) for cells in (before, after))
    return [f"{first:.1f} -> {second:.1f} %" for first, second in zip(plain, changed)]
