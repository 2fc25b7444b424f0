"""Weights that were trained on images of other channels than a model's: their first convolution is adapted."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

logger = logging.getLogger(__name__)


def adapted(
    weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], channels: int
) -> dict[str, torch.Tensor]:
    """Weights with a first convolution for another number of channels, and all others as they are.

    Each channel gets the mean of the filters for all channels that the weights know. Their number divided by the new
    one scales it, so that an image whose channels are alike gives what it gave before. A log line says so.

    Args:
        weights: name -> tensor.
        wanted: name -> the model's tensor.
        channels: channels of the model's images.
    """
    fitted = dict(weights)
    for name, given in weights.items():
        target = wanted.get(name)
        if target is None or not _is_first(given, target, channels):
            continue
        known = given.shape[1]
        fitted[name] = (given.mean(dim=1, keepdim=True) * (known / channels)).repeat(1, channels, 1, 1)
        logger.info(
            "%s was trained on %d channels; each of the %d begins with the mean of their filters, times %d/%d",
            *(name, known, channels, known, channels),
        )
    return fitted


def _is_first(given: torch.Tensor, target: torch.Tensor, channels: int) -> bool:
    """Whether two tensors are convolutions that differ in their input alone, which is the image in the second."""
    if not given.ndim == target.ndim == 4 or target.shape[1] != channels or given.shape[1] == channels:
        return False
    return given.shape[0] == target.shape[0] and given.shape[2:] == target.shape[2:]
