"""A whole image of any size -> its cells: batches of tiles, masks inside their own boxes, one instance a cell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch.nn import functional as F

from cellseg_d2.data.mapper import to_model_input
from cellseg_d2.data.tiling import Tile, TileGrid
from cellseg_d2.engine.checkpoint import CellCheckpointer, checkpoint_cfg
from cellseg_d2.engine.setup import use_available_device
from cellseg_d2.inference.stitch import stitch
from cellseg_d2.instances import CellInstances

logger = logging.getLogger(__name__)

PASTE_BLOCK_PIXELS = 2**22
"""Mask samples computed at once: bounds memory, and keeps the work of small masks in few calls."""


class WholeImagePredictor:
    """Predicts images of any size with a model that was trained on tiles.

    An image that fits into one tile is predicted whole; a larger one in tiles with a halo, put together by
    :func:`cellseg_d2.inference.stitch.stitch`.

    Args:
        model: a Detectron2 model with ``inference(..., do_postprocess=False)``, such as ``GeneralizedRCNN``.
        cfg: its config; CELLSEG.INFERENCE and INPUT.FORMAT are used.
    """

    def __init__(self, model: torch.nn.Module, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg
        self.class_names: list[str] = list(cfg.CELLSEG.CLASS_NAMES)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> WholeImagePredictor:
        """A predictor with the model of a config and the weights of its MODEL.WEIGHTS.

        Raises:
            CellSegError: the weights cannot be read or do not fit the model.
        """
        cfg = cfg.clone()
        cfg.defrost()
        use_available_device(cfg)
        model = build_model(cfg)
        CellCheckpointer(model, cfg, strict=True).load(cfg.MODEL.WEIGHTS)
        return cls(model, cfg)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> WholeImagePredictor:
        """A predictor from a checkpoint alone, which carries its config.

        Raises:
            CellSegError: the file cannot be read, or carries no config.
        """
        cfg = checkpoint_cfg(path)
        cfg.MODEL.WEIGHTS = str(path)
        return cls.from_cfg(cfg)

    def predict(self, image: NDArray[np.uint8]) -> CellInstances:
        """Finds the cells of an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            The cells in pixels of the image; classes are contiguous, 0 .. K - 1.
        """
        options = self.cfg.CELLSEG.INFERENCE
        height, width = image.shape[:2]
        grid = TileGrid(height, width, options.TILE_SIZE, options.OVERLAP)
        cells, report = stitch(self._predict_tiles(image, grid), (height, width), tolerance=options.TOLERANCE)
        logger.debug("%d tiles: %s", len(grid), report)
        return cells

    def _predict_tiles(self, image: NDArray[np.uint8], grid: TileGrid) -> Iterator[tuple[Tile, CellInstances]]:
        """Each tile with its cells in coordinates of the image."""
        size = image.shape[0], image.shape[1]
        step = self.cfg.CELLSEG.INFERENCE.BATCH_SIZE
        by_size = defaultdict(list)  # a batch is padded to its largest tile, which group normalisation would notice
        for tile in grid:
            x0, y0, x1, y1 = tile.window
            by_size[y1 - y0, x1 - x0].append(tile)
        for batch in (own[first : first + step] for own in by_size.values() for first in range(0, len(own), step)):
            crops = [image[tile.window[1] : tile.window[3], tile.window[0] : tile.window[2]] for tile in batch]
            for tile, instances in zip(batch, self._call_model(crops)):
                cells = to_cell_instances(instances, self.cfg.CELLSEG.INFERENCE.MASK_THRESHOLD)
                yield tile, cells.moved(*tile.window[:2], size)

    def _call_model(self, crops: list[NDArray[np.uint8]]) -> list[Instances]:
        """One batch of RGB crops; masks come as the mask head gives them, not pasted."""
        inputs = [
            {
                "image": to_model_input(crop, self.cfg.INPUT.FORMAT),
                "height": crop.shape[0],
                "width": crop.shape[1],
            }
            for crop in crops
        ]
        with torch.inference_mode():
            return self.model.inference(inputs, do_postprocess=False)


def to_cell_instances(instances: Instances, threshold: float) -> CellInstances:
    """Detectron2's raw predictions of one image, with (N, 1, M, M) mask probabilities, as cells.

    Cells whose mask has no pixel of at least ``threshold`` are left out.
    """
    height, width = instances.image_size
    boxes = instances.pred_boxes.tensor.float()
    masks, origins = paste_in_boxes(instances.pred_masks[:, 0].float(), boxes, (height, width), threshold)
    return CellInstances(
        (height, width),
        boxes.cpu().numpy(),
        instances.scores.float().cpu().numpy(),
        instances.pred_classes.cpu().numpy().astype(np.int64),
        masks,
        origins,
    ).trimmed()


def paste_in_boxes(
    probabilities: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> tuple[list[NDArray[np.bool_]], NDArray[np.int64]]:
    """Resamples mask probabilities to pixels, each mask inside its own box only.

    The same values as Detectron2's ``paste_masks_in_image`` (layers/mask_ops.py: bilinear, at pixel centres), without
    an array of cells x image.

    Args:
        probabilities: (N, M, M) float in [0, 1].
        boxes: (N, 4) float, (x0, y0, x1, y1) in pixels.
        image_size: (height, width); boxes are clipped to it.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        N bool arrays (h, w), and (N, 2) int64, the (x, y) of their first pixels.
    """
    height, width = image_size
    limits = boxes.new_tensor([width, height])
    # one pixel more on each side: the bilinear samples fade out just outside of the box
    low = torch.minimum((boxes[:, :2].floor() - 1).clamp(min=0), limits)
    high = torch.minimum(boxes[:, 2:].ceil() + 1, limits)
    sizes = (high - low).clamp(min=0).long()
    masks: list[NDArray[np.bool_]] = [np.zeros((0, 0), bool)] * len(boxes)
    for block in _blocks_of_similar_size(sizes.cpu().numpy()):
        chosen = torch.from_numpy(block).to(boxes.device)
        columns, rows = (int(side) for side in sizes[chosen].amax(dim=0))
        box, corner = boxes[chosen], low[chosen]
        extent = (box[:, 2:] - box[:, :2]).clamp(min=1e-6)
        x = torch.arange(columns, device=boxes.device) + corner[:, :1] + 0.5
        y = torch.arange(rows, device=boxes.device) + corner[:, 1:] + 0.5
        x = (x - box[:, :1]) / extent[:, :1] * 2 - 1
        y = (y - box[:, 1:2]) / extent[:, 1:] * 2 - 1
        points = torch.stack([x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=3)
        sampled = F.grid_sample(probabilities[chosen, None], points, align_corners=False)[:, 0] >= threshold
        for number, mask, (w, h) in zip(block, sampled.cpu().numpy(), sizes[chosen].tolist()):
            masks[number] = mask[:h, :w]
    return masks, low.long().cpu().numpy()


def _blocks_of_similar_size(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices of (N, 2) sizes in blocks: padded to a block's largest width and height, few pixels are wasted."""
    nonempty = np.flatnonzero(sizes.min(axis=1) > 0)
    order = nonempty[np.argsort(sizes[nonempty].max(axis=1), kind="stable")]
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * int(sizes[order[last]].max()) ** 2 <= PASTE_BLOCK_PIXELS:
            last += 1
        yield order[first:last]
        first = last
