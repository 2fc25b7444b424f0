"""The values that config keys may have: one table, checked before anything is built or any process is started.

Config files and command lines are typed by users, and a checkpoint brings a config along from whoever made it. So the
table also bounds the sizes that decide how much memory a model takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from cellseg_d2.errors import CellSegError


@dataclass(frozen=True)
class Numbers:
    """Finite numbers from ``low`` to ``high``; without the ends that are open."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def admits(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        if self.high == math.inf:
            return f"a finite number {low} on" if not self.open_low else f"a finite number {low}"
        return f"a number {low} to {'below ' if self.open_high else ''}{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def admits(self, value: Any) -> bool:
        """Whether a value is one of the names."""
        return value in self.names

    def __str__(self) -> str:
        return " or ".join(self.names)


PROBABILITY = Numbers(0, 1)
COUNT = Numbers(0, 10**9)
MICRONS = Numbers(0, 10**4)
FACTOR = Numbers(0.05, 20)

RULES: Mapping[str, Numbers | Choice] = {
    "CELLSEG.SCHEDULE": Choice(("epochs", "data")),
    "CELLSEG.EPOCHS": Numbers(1, 10**6),
    "CELLSEG.MAX_PARAMETERS": Numbers(1, 10**12),
    "CELLSEG.EARLY_STOPPING": COUNT,
    "CELLSEG.VALIDATION_OVERLAYS": COUNT,
    "CELLSEG.EMA_DECAY": Numbers(0, 1, open_high=True),
    "CELLSEG.BALANCE_KINDS": Numbers(0, 1000),
    "CELLSEG.AMP_DTYPE": Choice(("float16", "bfloat16")),
    "CELLSEG.MIN_AREA": COUNT,
    "CELLSEG.MIN_VISIBLE": PROBABILITY,
    "CELLSEG.PIXEL_SIZE_UM": MICRONS,
    "CELLSEG.LOSS.RPN_CLS_WEIGHT": Numbers(),
    "CELLSEG.LOSS.BOX_CLS_WEIGHT": Numbers(),
    "CELLSEG.LOSS.MASK_WEIGHT": Numbers(),
    "CELLSEG.LOSS.MASK": Choice(("bce", "dice_bce")),
    "CELLSEG.AUG.HORIZONTAL_FLIP_PROB": PROBABILITY,
    "CELLSEG.AUG.VERTICAL_FLIP_PROB": PROBABILITY,
    "CELLSEG.AUG.QUARTER_TURN_PROB": PROBABILITY,
    "CELLSEG.AUG.AFFINE_PROB": PROBABILITY,
    "CELLSEG.AUG.SHIFT_LIMIT": PROBABILITY,
    "CELLSEG.AUG.SCALE_LIMIT": Numbers(0, 1, open_high=True),
    "CELLSEG.AUG.ROTATE_LIMIT_DEGREES": Numbers(0, 180),
    "CELLSEG.AUG.BRIGHTNESS_CONTRAST_PROB": PROBABILITY,
    "CELLSEG.AUG.BRIGHTNESS_LIMIT": PROBABILITY,
    "CELLSEG.AUG.CONTRAST_LIMIT": PROBABILITY,
    "CELLSEG.AUG.HUE_SATURATION_PROB": PROBABILITY,
    "CELLSEG.AUG.HUE_LIMIT": Numbers(0, 180),
    "CELLSEG.AUG.SATURATION_LIMIT": Numbers(0, 255),
    "CELLSEG.AUG.VALUE_LIMIT": Numbers(0, 255),
    "CELLSEG.AUG.GRAY_PROB": PROBABILITY,
    "CELLSEG.AUG.INVERT_PROB": PROBABILITY,
    "CELLSEG.AUG.GAMMA_PROB": PROBABILITY,
    "CELLSEG.AUG.BLUR_PROB": PROBABILITY,
    "CELLSEG.AUG.BLUR_SIGMA": Numbers(0.3, 100),
    "CELLSEG.AUG.NOISE_PROB": PROBABILITY,
    "CELLSEG.AUG.NOISE_STD": Numbers(0.01, 1),
    "CELLSEG.AUG.COPY_PASTE_PROB": PROBABILITY,
    "CELLSEG.AUG.COPY_PASTE_MAX_CELLS": Numbers(1, 10**6),
    "CELLSEG.INFERENCE.TILE_SIZE": Numbers(1, 16_384),
    "CELLSEG.INFERENCE.OVERLAP": Numbers(0, 1, open_high=True),
    "CELLSEG.INFERENCE.BATCH_SIZE": Numbers(1, 1024),
    "CELLSEG.INFERENCE.MASK_THRESHOLD": Numbers(0, 1, open_low=True, open_high=True),
    "CELLSEG.INFERENCE.TOLERANCE": Numbers(0, 1024),
    "CELLSEG.INFERENCE.SUPPRESSION": Choice(("hard", "soft", "none")),
    "CELLSEG.INFERENCE.SUPPRESSION_IOU": Numbers(0, 1, open_low=True, open_high=True),
    "CELLSEG.INFERENCE.PIXEL_SIZE_UM": MICRONS,
    "INPUT.FORMAT": Choice(("RGB", "BGR")),
    "MODEL.ROI_HEADS.NUM_CLASSES": Numbers(0, 10**4),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": PROBABILITY,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": PROBABILITY,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": Numbers(1, 64),
    "MODEL.ROI_BOX_HEAD.NUM_FC": Numbers(0, 16),
    "MODEL.ROI_BOX_HEAD.FC_DIM": Numbers(1, 16_384),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": Numbers(0, 64),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": Numbers(1, 4096),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": Numbers(1, 64),
    "MODEL.ROI_MASK_HEAD.NUM_CONV": Numbers(0, 64),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": Numbers(1, 4096),
    "MODEL.FPN.OUT_CHANNELS": Numbers(1, 4096),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": Numbers(1, 10**6),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": Numbers(1, 10**6),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": Numbers(1, 10**6),
    "MODEL.RPN.POST_NMS_TOPK_TEST": Numbers(1, 10**6),
    "TEST.DETECTIONS_PER_IMAGE": Numbers(-1, 10**6),
}
"""Config key -> what it may be. Keys of the plugin that are names, lists or switches are not here."""


def check_values(cfg: CfgNode) -> None:
    """Checks single values of a config; what must fit other values or the data is checked where that is known.

    Raises:
        CellSegError: a value is not what :data:`RULES` admits; the message names the key and what to write.
    """
    for key, rule in RULES.items():
        value = config_value(cfg, key)
        if not rule.admits(value):
            raise CellSegError(f"{key} is {_shown(value)}; write {rule}")
    _check_list(cfg, "CELLSEG.INFERENCE.TTA.SCALES", FACTOR, least=1)
    _check_list(cfg, "MODEL.PIXEL_MEAN", Numbers(-math.inf), least=1)
    _check_list(cfg, "MODEL.PIXEL_STD", Numbers(0, open_low=True), least=1)
    _check_list(cfg, "CELLSEG.AUG.ZOOM_RANGE", FACTOR, least=2)
    _check_list(cfg, "CELLSEG.INFERENCE.MIN_SCORES", PROBABILITY, least=0)
    names, scores = cfg.CELLSEG.CLASS_NAMES, cfg.CELLSEG.INFERENCE.MIN_SCORES
    if names and len(scores) not in (0, len(names)):
        raise CellSegError(
            f"CELLSEG.INFERENCE.MIN_SCORES has {len(scores)} scores; write one for each of the {len(names)} classes"
        )
    if any(not isinstance(name, str) for name in cfg.CELLSEG.CLASS_NAMES):
        raise CellSegError(f"CELLSEG.CLASS_NAMES is {_shown(cfg.CELLSEG.CLASS_NAMES)}; write a list of names")


def config_value(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as ``MODEL.FPN.OUT_CHANNELS``."""
    node = cfg
    for name in key.split("."):
        node = node[name]
    return node


def plugin_keys(cfg: CfgNode) -> Iterator[tuple[str, Any]]:
    """Every key below CELLSEG with its value."""
    waiting = [("CELLSEG", cfg.CELLSEG)]
    while waiting:
        prefix, node = waiting.pop()
        for name, value in node.items():
            if isinstance(value, CfgNode):
                waiting.append((f"{prefix}.{name}", value))
            else:
                yield f"{prefix}.{name}", value


def _check_list(cfg: CfgNode, key: str, rule: Numbers, least: int) -> None:
    values = config_value(cfg, key)
    if len(values) < least or not all(rule.admits(value) for value in values):
        raise CellSegError(f"{key} is {_shown(values)}; write a list such as [1.0], each value {rule}")


def _shown(value: Any) -> str:
    text = str(value) or "empty"
    return text if len(text) <= 60 else f"{text[:57]}..."
