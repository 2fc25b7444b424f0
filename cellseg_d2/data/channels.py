"""Datasets of other channels than RGB: how a config follows them, and how their tiles are read."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from numpy.typing import NDArray

from cellseg_d2.errors import CellSegError, counted
from cellseg_d2.images.channels import Channels, PixelRule
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import INTENSITY_RULE

logger = logging.getLogger(__name__)

LEAST_STD = 1.0
"""The least standard deviation that a channel counts with, of 255, so that an empty one is not all noise."""

IMAGENET_STD = float(np.mean([58.395, 57.12, 57.375]))
"""The standard deviation of ImageNet's pixels, on the scale 0..255."""


def read_tile(file_name: str, channels: Sequence[str]) -> NDArray[np.uint8]:
    """An image of a converted dataset: (H, W, 3) RGB, or (H, W, C) where it has channels of these names.

    Raises:
        CellSegError: a channel is not there, or the file cannot be read.
    """
    if channels:
        return read_whole(file_name, PixelRule(INTENSITY_RULE, tuple(channels)))
    image: NDArray[np.uint8] = utils.read_image(file_name, format="RGB")
    return image


def channels_of(cfg: CfgNode) -> Channels:
    """The channels of a config's images, and those that pictures show."""
    return Channels(tuple(cfg.CELLSEG.CHANNELS), tuple(cfg.CELLSEG.SHOWN_CHANNELS))


def set_channels(cfg: CfgNode) -> None:
    """Sets, in place, the keys that follow from the channels of DATASETS.TRAIN; of RGB none.

    Each channel gets the mean 0 and the spread that ImageNet's pixels have in the units of the config's
    MODEL.PIXEL_STD, to which pretrained weights are used. A config that names the channels in CELLSEG.CHANNELS keeps
    its statistics.

    Raises:
        CellSegError: the datasets have different channels, or others than CELLSEG.CHANNELS.
    """
    first = cfg.DATASETS.TRAIN[0]
    known = {name: _channels_of(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}
    names, given = known[first], list(cfg.CELLSEG.CHANNELS)
    for dataset, others in known.items():
        if others != names:
            raise CellSegError(f"{dataset} has {told(others)}, {first} {told(names)}; convert both with the same ones")
    if given and given != names:
        raise CellSegError(f"CELLSEG.CHANNELS names {told(given)}, {first} has {told(names)}; leave the key out")
    cfg.CELLSEG.CHANNELS = names
    if not names:
        return
    cfg.INPUT.FORMAT = "RGB"  # the order of the channels as it is
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        logger.info("MODEL.BACKBONE.FREEZE_AT is 0, so that the first convolution learns to tell the channels apart")
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if not given:
        statistics, spread = MetadataCatalog.get(first).channels, IMAGENET_STD / float(np.mean(cfg.MODEL.PIXEL_STD))
        cfg.MODEL.PIXEL_MEAN = [channel["mean"] for channel in statistics]
        cfg.MODEL.PIXEL_STD = [round(max(channel["std"], LEAST_STD) / spread, 4) for channel in statistics]
    logger.info(
        "the images have %s; MODEL.PIXEL_MEAN %s, MODEL.PIXEL_STD %s",
        *(told(names), cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
    )


def _channels_of(dataset: str) -> list[str]:
    return [channel["name"] for channel in MetadataCatalog.get(dataset).get("channels", ())]


def told(names: Sequence[str]) -> str:
    """The number of some channels and their names in brackets, for messages; none are RGB."""
    return f"{counted(len(names), 'channel')} ({', '.join(names)})" if names else "3 channels (RGB)"
