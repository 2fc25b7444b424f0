"""Kinds of microscopy images (dark, bright, colour), found from their pixels, and how to draw each equally often."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

COLOUR_SPREAD, COLOUR_SHARE = 12, 0.05
"""An image is in colour if in at least this share of its pixels the channels differ by more than the spread of 255."""

DARK_MEDIAN = 100
"""A grey image is dark, as in fluorescence, if its median intensity (of 255) is below this."""


def image_kind(image: NDArray[np.uint8]) -> str:
    """``colour``, ``dark`` or ``bright``.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    spread = image.max(axis=2) - image.min(axis=2)
    if np.mean(spread > COLOUR_SPREAD) > COLOUR_SHARE:
        return "colour"
    return "dark" if np.median(image) < DARK_MEDIAN else "bright"


def kind_factors(dicts: Sequence[dict[str, Any]], limit: float) -> torch.Tensor:
    """How many times as often each tile is drawn, so that every kind comes as often as the most frequent one.

    Args:
        dicts: T dataset dicts; their images are read once.
        limit: the largest factor.

    Returns:
        (T,) float32.
    """
    kinds = np.array([image_kind(read_image(sample["file_name"], "RGB")) for sample in dicts])
    names, counts = np.unique(kinds, return_counts=True)
    times = dict(zip(names.tolist(), np.minimum(counts.max() / counts, limit).tolist()))
    told = ", ".join(f"{count} {name} x {times[name]:.2f}" for name, count in zip(names, counts))
    logger.info("kinds of tiles, and how often they are drawn: %s", told)
    return torch.tensor([times[kind] for kind in kinds.tolist()], dtype=torch.float32)
