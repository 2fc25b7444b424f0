"""Weights that were trained on one class, to begin a model of several classes with."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping

import torch

logger = logging.getLogger(__name__)

CLASSIFIER = re.compile(r"box_predictor\.(\d+\.)?cls_score\.(weight|bias)$")
"""What has a row per class, and one for the background; a cascade has several."""

BOXES_OR_MASKS = re.compile(r"(box_predictor\.(\d+\.)?bbox_pred|mask_head\.predictor)\.(weight|bias)$")
"""What has four rows or one per class, unless all classes share them."""


def spread(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights whose heads know one class for a model of several, and all others as they are.

    Every class begins with what is known of the one, so that the model finds cells from the first iteration and has
    only to learn how classes differ. The classes share the probability that the one had: log K is taken from the bias
    of each. A log line says so.

    Args:
        weights: name -> tensor.
        wanted: name -> the model's tensor.
    """
    fitted = dict(weights)
    found = (CLASSIFIER.search(name) for name in weights)
    classifier = next((match.string for match in found if match and match[2] == "weight"), "")
    if classifier not in wanted or weights[classifier].shape[1:] != wanted[classifier].shape[1:]:
        return fitted
    count = len(wanted[classifier]) - 1
    if len(weights[classifier]) != 2 or count < 2:
        return fitted
    for name, given in weights.items():
        if name not in wanted or given.shape[1:] != wanted[name].shape[1:]:
            continue
        others = [1] * (given.ndim - 1)
        if CLASSIFIER.search(name):
            share = math.log(count) if name.endswith("bias") else 0.0
            fitted[name] = torch.cat([given[:1].repeat(count, *others) - share, given[1:]])
        elif BOXES_OR_MASKS.search(name) and len(wanted[name]) == count * len(given):
            fitted[name] = given.repeat(count, *others)
    logger.info("the weights know one class; each of the %d begins with what they know of it", count)
    return fitted
