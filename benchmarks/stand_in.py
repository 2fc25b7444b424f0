"""Models that know the answer, for benchmarks of what happens around a model."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from benchmarks.scenes import SEED

MASK_SIZE = 56

SMALL_MASK = 28
"""The side of the masks of :class:`DarkCells`, that of most models."""

DARK, LEAST_AREA = 150, 30
"""Intensity below which :class:`DarkCells` takes a pixel for a cell's, and the pixels that a cell has at least."""


@META_ARCH_REGISTRY.register()
class GroundTruthRCNN(nn.Module):
    """Finds the cells of a :meth:`benchmarks.scenes.Scene.coded` image, of which it sees a tile at a time.

    Like Mask R-CNN it gives boxes and small square masks.

    Args:
        input_format: RGB or BGR, the order of the channels that it is given.
    """

    @configurable
    def __init__(self, input_format: str) -> None:
        super().__init__()
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Takes the order of the channels from a config."""
        return {"input_format": cfg.INPUT.FORMAT}

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> list[Any]:
        """As ``GeneralizedRCNN.inference``: with masks as probabilities in boxes, or pasted."""
        found = [self._instances(sample["image"].cpu().numpy()) for sample in batched_inputs]
        return [{"instances": _pasted(instances)} for instances in found] if do_postprocess else found

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[Any]:
        """What Detectron2's ``DefaultPredictor`` calls."""
        return self.inference(batched_inputs)

    def _instances(self, image: NDArray[np.uint8]) -> Instances:
        red, green, blue = image.astype(np.int32) if self.input_format == "RGB" else image[::-1].astype(np.int32)
        labels = red + 256 * green
        boxes, classes, masks = [], [], []
        for number, window in enumerate(ndimage.find_objects(labels), start=1):
            if window is None:
                continue
            y, x = window
            mask = labels[window] == number
            boxes.append((x.start, y.start, x.stop, y.stop))
            classes.append(int(blue[window][mask][0]))
            given = torch.from_numpy(mask)[None, None].float()
            masks.append(F.interpolate(given, (MASK_SIZE, MASK_SIZE), mode="bilinear")[0])
        scores = np.random.default_rng(SEED).uniform(0.8, 0.9, len(boxes)).astype(np.float32)
        return Instances(
            labels.shape,
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.from_numpy(scores),
            pred_classes=torch.tensor(classes, dtype=torch.int64),
            pred_masks=torch.stack(masks) if masks else torch.zeros(0, 1, MASK_SIZE, MASK_SIZE),
        )


@META_ARCH_REGISTRY.register()
class DarkCells(nn.Module):
    """Finds what is darker than :data:`DARK` in the first channel, each connected part a cell, at next to no cost.

    Like Mask R-CNN it gives boxes and small square masks.
    """

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Needs nothing of a config."""
        return {}

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> list[Any]:
        """As ``GeneralizedRCNN.inference``: with masks as probabilities in boxes, or pasted."""
        found = [self._instances(sample["image"].cpu().numpy()) for sample in batched_inputs]
        return [{"instances": _pasted(instances)} for instances in found] if do_postprocess else found

    def _instances(self, image: NDArray[np.uint8]) -> Instances:
        _, labels, stats, _ = cv2.connectedComponentsWithStats((image[0] < DARK).astype(np.uint8), connectivity=4)
        cells = [number for number in range(1, len(stats)) if stats[number, cv2.CC_STAT_AREA] >= LEAST_AREA]
        masks = np.zeros((len(cells), 1, SMALL_MASK, SMALL_MASK), np.float32)
        for place, number in enumerate(cells):
            x, y, width, height = stats[number, :4].tolist()
            mask = (labels[y : y + height, x : x + width] == number).astype(np.float32)
            masks[place, 0] = cv2.resize(mask, (SMALL_MASK, SMALL_MASK), interpolation=cv2.INTER_LINEAR)
        boxes = stats[cells, :4].astype(np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Instances(
            labels.shape,
            pred_boxes=Boxes(torch.from_numpy(boxes)),
            scores=torch.linspace(0.9, 0.8, len(cells)),
            pred_classes=torch.zeros(len(cells), dtype=torch.int64),
            pred_masks=torch.from_numpy(masks),
        )


def _pasted(instances: Instances) -> Instances:
    result = Instances(instances.image_size, **instances.get_fields())
    result.pred_masks = paste_masks_in_image(instances.pred_masks[:, 0], instances.pred_boxes, instances.image_size)
    return result


@META_ARCH_REGISTRY.register()
class NetworkAndTruth(nn.Module):
    """A network that runs on every tile, and whose detections are replaced by those of :class:`GroundTruthRCNN`.

    So a network with untrained heads has the detections of a trained one.

    Attributes:
        standing_in: seconds that it took to make the detections, which no network would.
    """

    @configurable
    def __init__(self, network: nn.Module, truth: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.truth = truth
        self.standing_in = 0.0

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The network and the truth of one config."""
        return {"network": GeneralizedRCNN(cfg), "truth": GroundTruthRCNN(cfg)}

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> list[Any]:
        """The truth, for the price of the network."""
        self.network.inference(batched_inputs, do_postprocess=False)
        started = time.perf_counter()
        found = self.truth.inference(batched_inputs, do_postprocess=False)
        self.standing_in += time.perf_counter() - started
        return [{"instances": _pasted(instances)} for instances in found] if do_postprocess else found

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[Any]:
        """What Detectron2's ``DefaultPredictor`` calls."""
        return self.inference(batched_inputs)
