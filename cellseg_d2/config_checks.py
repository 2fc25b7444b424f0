"""All checks of a config: which values a key may have, and which keys must fit each other.

They run before a model is built and before any process starts. Config files and command lines are typed by users, and a
checkpoint carries a config that somebody else wrote, so the table also bounds the sizes that decide how much memory a
model takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from fvcore.common.registry import Registry

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.intensity import rules_of
from cellseg_d2.modeling.roi_heads import check_losses, ignores_crowd


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
    """One of some names or numbers."""

    names: tuple[str | int, ...]

    def admits(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.names

    def __str__(self) -> str:
        return " or ".join(map(str, self.names))


@dataclass(frozen=True)
class Registered:
    """A name in one of Detectron2's registries, which hold the plugin's models too."""

    registry: Registry

    def admits(self, value: Any) -> bool:
        """Whether something is registered by this name."""
        return isinstance(value, str) and value in self.registry

    def __str__(self) -> str:
        return " or ".join(sorted(name for name, _ in self.registry))


PROBABILITY = Numbers(0, 1)
COUNT = Numbers(0, 10**9)
MICRONS = Numbers(0, 10**4)
FACTOR = Numbers(0.05, 20)

MOST_CHANNELS = 256
"""Channels of a model's images."""

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
"""Detectron2's samplers whose order depends on the seed alone, so that training can be resumed at any place."""


STEPPING = "WarmupMultiStepLR"
"""The one scheduler that follows SOLVER.STEPS."""

RULES: Mapping[str, Numbers | Choice | Registered] = {
    "CELLSEG.SCHEDULE": Choice(("epochs", "data")),
    "CELLSEG.EPOCHS": Numbers(1, 10**6),
    "CELLSEG.MAX_PARAMETERS": Numbers(1, 10**12),
    "CELLSEG.EARLY_STOPPING": COUNT,
    "CELLSEG.VALIDATION_OVERLAYS": COUNT,
    "CELLSEG.OPTIMIZER": Choice(("sgd", "adamw")),
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
    "CELLSEG.INFERENCE.SUPPRESSION_COVERED": Numbers(0, 1, open_high=True),
    "CELLSEG.INFERENCE.PIXEL_SIZE_UM": MICRONS,
    "CELLSEG.INFERENCE.PRECISION": Choice(("float32", "bfloat16")),
    "CELLSEG.INFERENCE.BACKEND": Choice(("torch", "openvino")),
    "DATALOADER.NUM_WORKERS": Numbers(0, 1024),
    "DATALOADER.REPEAT_THRESHOLD": Numbers(),
    "DATALOADER.SAMPLER_TRAIN": Choice(SAMPLERS),
    "INPUT.CROP.TYPE": Choice(("absolute", "absolute_range", "relative", "relative_range")),
    "INPUT.FORMAT": Choice(("RGB", "BGR")),
    "MODEL.ANCHOR_GENERATOR.NAME": Registered(ANCHOR_GENERATOR_REGISTRY),
    "MODEL.BACKBONE.FREEZE_AT": Numbers(0, 5),
    "MODEL.BACKBONE.NAME": Registered(BACKBONE_REGISTRY),
    "MODEL.EFFICIENTNET_LITE.NORM": Choice(("FrozenBN", "BN")),
    "MODEL.META_ARCHITECTURE": Registered(META_ARCH_REGISTRY),
    "MODEL.PROPOSAL_GENERATOR.NAME": Registered(PROPOSAL_GENERATOR_REGISTRY),
    "MODEL.RESNETS.DEPTH": Choice((18, 34, 50, 101, 152)),
    "MODEL.RESNETS.NUM_GROUPS": Numbers(1, 1024),
    "MODEL.RESNETS.WIDTH_PER_GROUP": Numbers(1, 1024),
    "MODEL.ROI_HEADS.NAME": Registered(ROI_HEADS_REGISTRY),
    "MODEL.ROI_BOX_HEAD.NAME": Registered(ROI_BOX_HEAD_REGISTRY),
    "MODEL.ROI_MASK_HEAD.NAME": Registered(ROI_MASK_HEAD_REGISTRY),
    "MODEL.RPN.NMS_THRESH": PROBABILITY,
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
    "SEED": Numbers(-1, 2**31 - 1),
    "SOLVER.BASE_LR": Numbers(open_low=True),
    "SOLVER.LR_SCHEDULER_NAME": Choice((STEPPING, "WarmupCosineLR", "WarmupStepWithFixedGammaLR")),
    "SOLVER.CHECKPOINT_PERIOD": Numbers(1, 10**9),
    "SOLVER.GAMMA": Numbers(),
    "SOLVER.IMS_PER_BATCH": Numbers(1, 10**5),
    "SOLVER.MAX_ITER": Numbers(-1, 10**9),
    "SOLVER.MOMENTUM": Numbers(0, 1, open_high=True),
    "SOLVER.WARMUP_ITERS": COUNT,
    "SOLVER.WEIGHT_DECAY": Numbers(),
    "TEST.DETECTIONS_PER_IMAGE": Numbers(-1, 10**6),
    "TEST.EVAL_PERIOD": COUNT,
}
"""Config key -> what it may be. Lists, switches and free texts are not here."""


def check_config(cfg: CfgNode) -> None:
    """Checks what prediction and training both need; a checkpoint's config goes through this too.

    Raises:
        CellSegError: a value is not allowed, or two do not go together; the message names the key and what to write.
    """
    check_values(cfg)
    if not cfg.MODEL.MASK_ON:
        raise CellSegError("MODEL.MASK_ON is False; write True, since every result of this package is a mask")
    names, count = cfg.CELLSEG.CLASS_NAMES, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if names and count and len(names) != count:
        raise CellSegError(
            f"CELLSEG.CLASS_NAMES has {len(names)} names, but MODEL.ROI_HEADS.NUM_CLASSES is {count}; "
            "write one name per class"
        )


def check_values(cfg: CfgNode) -> None:
    """Checks each value alone.

    Raises:
        CellSegError: a value is not what :data:`RULES` admits; the message names the key and what to write.
    """
    for key, value in keys(cfg):
        if value is None and key != "SOLVER.WEIGHT_DECAY_BIAS":  # None there means the weight decay of the others
            raise CellSegError(f"{key} is None; write a value, or leave the key out for the default")
    for key in RULES:
        _check_value(cfg, key)
    _check_list(cfg, "CELLSEG.INFERENCE.TTA.SCALES", FACTOR, range(1, 17))
    check_channels(cfg)
    _check_list(cfg, "CELLSEG.AUG.ZOOM_RANGE", FACTOR, range(2, 3))
    names, scores = cfg.CELLSEG.CLASS_NAMES, cfg.CELLSEG.INFERENCE.MIN_SCORES
    if names and len(scores) not in (0, len(names)):
        raise CellSegError(
            f"CELLSEG.INFERENCE.MIN_SCORES has {len(scores)} scores; write one for each of the {len(names)} classes"
        )
    _check_list(cfg, "CELLSEG.INFERENCE.MIN_SCORES", PROBABILITY, range(0, len(scores) + 1))
    if any(not isinstance(name, str) for name in cfg.CELLSEG.CLASS_NAMES):
        raise CellSegError(f"CELLSEG.CLASS_NAMES is {_shown(cfg.CELLSEG.CLASS_NAMES)}; write a list of names")


def check_channels(cfg: CfgNode) -> None:
    """Checks the keys that depend on the number of channels.

    Raises:
        CellSegError: names are no texts, there are too many, or not as many as the statistics or as the ranges of the
            intensity rule.
    """
    for key in ("CELLSEG.CHANNELS", "CELLSEG.SHOWN_CHANNELS"):
        if any(not isinstance(name, str) or not name for name in config_value(cfg, key)):
            raise CellSegError(
                f"{key} is {_shown(config_value(cfg, key))}; write a list of names, or of numbers as text"
            )
    names, shown = cfg.CELLSEG.CHANNELS, cfg.CELLSEG.SHOWN_CHANNELS
    count = len(names) or 3
    if not count <= MOST_CHANNELS:
        raise CellSegError(f"CELLSEG.CHANNELS has {count} channels; write {MOST_CHANNELS} at most")
    if len(cfg.MODEL.PIXEL_MEAN) != count and all(Numbers(-math.inf).admits(value) for value in cfg.MODEL.PIXEL_MEAN):
        read = f"CELLSEG.CHANNELS names {count}" if names else "images are read as RGB, 3 channels"
        raise CellSegError(
            f"MODEL.PIXEL_MEAN has {len(cfg.MODEL.PIXEL_MEAN)} numbers, one per channel of the model, but {read}; "
            "give as many"
        )
    rules_of(PixelRule(cfg.CELLSEG.INTENSITY_RULE, tuple(names)))
    _check_list(cfg, "MODEL.PIXEL_MEAN", Numbers(-math.inf), range(count, count + 1))
    _check_list(cfg, "MODEL.PIXEL_STD", Numbers(0, open_low=True), range(count, count + 1))
    if len(shown) > 3 or (names and not set(shown) <= set(names)):  # names may come from the dataset later
        raise CellSegError(
            f"CELLSEG.SHOWN_CHANNELS is {_shown(shown)}; write up to three of {', '.join(names) or 'its channels'}"
        )


def check_training(cfg: CfgNode) -> None:
    """Checks what training needs beyond :func:`check_config`, apart from the data and the machine.

    Raises:
        CellSegError: a value is not allowed, or two do not go together; the message names the key and what to write.
    """
    check_config(cfg)
    _check_crop(cfg)
    check_sampler(cfg)
    if cfg.CELLSEG.BEST_METRIC.startswith("ema/"):
        raise CellSegError(
            "CELLSEG.BEST_METRIC: leave out ema/; the best average is kept beside it, as model_best_ema.pth"
        )
    if cfg.CELLSEG.IGNORE_CROWD and not ignores_crowd(cfg):
        raise CellSegError(
            "CELLSEG.IGNORE_CROWD needs MODEL.PROPOSAL_GENERATOR.NAME CellRPN and MODEL.ROI_HEADS.NAME CellROIHeads or "
            "CellCascadeROIHeads; Detectron2's classes would learn to find crowds"
        )
    check_losses(cfg)


def check_sampler(cfg: CfgNode) -> None:
    """Raises CellSegError where the order of the training samples could not be made, or not be resumed."""
    _check_value(cfg, "DATALOADER.SAMPLER_TRAIN")
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler" and cfg.CELLSEG.BALANCE_KINDS > 0:
        raise CellSegError(
            "CELLSEG.BALANCE_KINDS draws tiles by their kind; it needs DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )


def check_resolved(cfg: CfgNode, processes: int) -> None:
    """Checks a config whose datasets are known, for a number of processes.

    Raises:
        CellSegError: the batch cannot be shared by the processes, or early stopping would have nothing to go by.
    """
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise CellSegError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared by {processes} processes; "
            "make it a multiple"
        )
    check_channels(cfg)
    if cfg.CELLSEG.CHANNELS and cfg.CELLSEG.BALANCE_KINDS > 0:
        raise CellSegError(
            "CELLSEG.BALANCE_KINDS tells kinds of RGB images apart; write 0 for images of other channels"
        )
    if cfg.CELLSEG.CHANNELS and cfg.VIS_PERIOD > 0:
        raise CellSegError(
            "VIS_PERIOD draws RGB images only; write 0, and see CELLSEG.VALIDATION_OVERLAYS for pictures"
        )
    if cfg.CELLSEG.EARLY_STOPPING > 0 and (cfg.TEST.EVAL_PERIOD <= 0 or not cfg.DATASETS.TEST):
        raise CellSegError("CELLSEG.EARLY_STOPPING needs TEST.EVAL_PERIOD above 0 and a validation part")


def check_class_count(cfg: CfgNode, dataset: str, class_names: list[str]) -> None:
    """Raises CellSegError where the config asks for another number of classes than the dataset has; 0 asks for none."""
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if count not in (0, len(class_names)):
        raise CellSegError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {count}, but {dataset} has {len(class_names)} classes; "
            "leave it 0 to take the dataset's"
        )


def config_value(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as ``MODEL.FPN.OUT_CHANNELS``."""
    node = cfg
    for name in key.split("."):
        node = node[name]
    return node


def plugin_keys(cfg: CfgNode) -> Iterator[tuple[str, Any]]:
    """Every key below CELLSEG with its value."""
    yield from ((key, value) for key, value in keys(cfg) if key.startswith("CELLSEG."))


def keys(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config, such as ``MODEL.FPN.OUT_CHANNELS``, with its value."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_value(cfg: CfgNode, key: str) -> None:
    value, rule = config_value(cfg, key), RULES[key]
    if not rule.admits(value):
        raise CellSegError(f"{key} is {_shown(value)}; write {rule}")


def _check_crop(cfg: CfgNode) -> None:
    crop, (low, high) = cfg.INPUT.CROP, cfg.CELLSEG.AUG.ZOOM_RANGE
    if low > high:
        raise CellSegError(f"CELLSEG.AUG.ZOOM_RANGE is [{low}, {high}]; write the smallest factor first")
    if not crop.ENABLED:
        return
    in_pixels = crop.TYPE.startswith("absolute")
    side = Numbers(1, 10**6) if in_pixels else Numbers(0, 1, open_low=True)
    _check_list(cfg, "INPUT.CROP.SIZE", side, range(2, 3))
    if in_pixels and not all(isinstance(value, int) for value in crop.SIZE):
        raise CellSegError(f"INPUT.CROP.SIZE is {list(crop.SIZE)}; INPUT.CROP.TYPE {crop.TYPE} needs whole pixels")
    if crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        raise CellSegError(
            f"INPUT.CROP.SIZE is {list(crop.SIZE)}; INPUT.CROP.TYPE absolute_range needs the least first"
        )
    if (low, high) != (1, 1) and crop.TYPE != "absolute":
        raise CellSegError(
            f"CELLSEG.AUG.ZOOM_RANGE needs INPUT.CROP.SIZE in pixels; write INPUT.CROP.TYPE absolute, not {crop.TYPE}"
        )


def _check_list(cfg: CfgNode, key: str, rule: Numbers, lengths: range) -> None:
    values = config_value(cfg, key)
    if len(values) not in lengths or not all(rule.admits(value) for value in values):
        numbers = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        raise CellSegError(f"{key} is {_shown(values)}; write a list of {numbers}, each value {rule}")


def _shown(value: Any) -> str:
    text = str(value) or "empty"
    return text if len(text) <= 60 else f"{text[:57]}..."
