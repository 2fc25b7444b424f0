"""Dataset dict -> model input. The cost of a training sample does not grow with its number of cells."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cellseg_d2.cells.rle import paint
from cellseg_d2.data.augmentation import area_scale, build_augmentation
from cellseg_d2.data.channels import read_tile
from cellseg_d2.data.copy_paste import CopyPaste, PaintedTile
from cellseg_d2.data.stream import SEED_KEY
from cellseg_d2.structures import CROWD_CLASS, LabelMasks


class CellDatasetMapper:
    """Reads a tile, paints its cells into label maps, augments both once, and takes boxes and masks from the result.

    Args:
        is_train: whether to augment and to add the ground truth.
        augmentation: over RGB image and label maps; None leaves them as they are.
        image_format: channel order of the model's input, ``RGB`` or ``BGR``.
        min_area: pixels that a cell must keep in augmentation to be a target.
        min_visible: share of its area that a cell must keep, not counting the change of scale.
        ignore_crowd: whether cells that are no target stay, as ground truth of class -1, which CellRPN and
            CellROIHeads leave out of the losses. Otherwise they are dropped and learnt as background.
        copy_paste: pastes cells from other tiles before the augmentation; None pastes none.
        channels: names of the images' channels; empty for RGB.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentation: T.AugmentationList | None,
        image_format: str,
        min_area: int,
        min_visible: float,
        ignore_crowd: bool,
        copy_paste: CopyPaste | None = None,
        channels: Sequence[str] = (),
    ) -> None:
        self.is_train = is_train
        self.augmentation = augmentation
        self.image_format = image_format
        self.min_area = min_area
        self.min_visible = min_visible
        self.ignore_crowd = ignore_crowd
        self.copy_paste = copy_paste
        self.channels = channels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config; ``copy_paste`` needs the dataset, see ``build_copy_paste``."""
        return {
            "is_train": is_train,
            "augmentation": build_augmentation(cfg) if is_train else None,
            "image_format": cfg.INPUT.FORMAT,
            "min_area": cfg.CELLSEG.MIN_AREA,
            "min_visible": cfg.CELLSEG.MIN_VISIBLE,
            "ignore_crowd": cfg.CELLSEG.IGNORE_CROWD,
            "channels": cfg.CELLSEG.CHANNELS,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Turns a dict of Detectron2's dataset format into a model input.

        Returns:
            The dict without its annotations, with ``image``, (C, H, W) uint8, RGB in ``image_format``, and in training
            ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.
        """
        output = copy.copy(dataset_dict)
        annotations = output.pop("annotations", [])
        image = read_tile(output["file_name"], self.channels)
        utils.check_image_size(output, image)
        if self.is_train:
            with _drawn_from(output.pop(SEED_KEY, None)):
                image, output["instances"] = self._augmented(image, annotations)
        output["image"] = to_model_input(image, self.image_format)
        return output

    def _augmented(
        self, image: NDArray[np.uint8], annotations: list[dict[str, Any]]
    ) -> tuple[NDArray[np.uint8], Instances]:
        tile = paint_tile(image, annotations)
        if self.copy_paste is not None:
            tile = self.copy_paste(tile)
        required = np.maximum(self.min_visible * tile.areas, 1)
        sample = T.AugInput(tile.image, sem_seg=np.moveaxis(tile.layers, 0, -1))
        if self.augmentation is not None:
            required *= area_scale(self.augmentation(sample))
        is_cell = tile.classes != CROWD_CLASS
        required[is_cell] = np.maximum(required[is_cell], self.min_area)
        label_maps = sample.sem_seg.reshape(*sample.image.shape[:2], -1)
        instances = instances_from_label_maps(label_maps, tile.layer_of, tile.classes, required)
        return sample.image, instances if self.ignore_crowd else instances[instances.gt_classes != CROWD_CLASS]


def paint_tile(image: NDArray[np.uint8], annotations: list[dict[str, Any]]) -> PaintedTile:
    """A tile with its cells, then its crowds; a crowd that is annotated with several classes is painted once."""
    crowds = {cell["segmentation"]["counts"]: cell for cell in annotations if cell.get("iscrowd", 0)}
    cells = [cell for cell in annotations if not cell.get("iscrowd", 0)]
    rles = [cell["segmentation"] for cell in (*cells, *crowds.values())]
    classes = np.full(len(rles), CROWD_CLASS, np.int64)
    classes[: len(cells)] = [cell["category_id"] for cell in cells]
    layers, layer_of = paint(rles, image.shape[:2])
    areas = np.bincount(layers.reshape(-1), minlength=len(rles) + 1)[1:]
    return PaintedTile(image, layers, layer_of, classes, areas)


@contextmanager
def _drawn_from(seed: int | None) -> Iterator[None]:
    """Seeds numpy's global state, from which augmentations draw, for one sample; None leaves it unseeded."""
    if seed is None:
        yield
        return
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def to_model_input(image: NDArray[np.uint8], image_format: str) -> torch.Tensor:
    """(H, W, C) RGB or other channels -> (C, H, W) tensor in the model's channel order, which is decided here only.

    Raises:
        ValueError: ``image_format`` is neither ``RGB`` nor ``BGR``.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT must be RGB or BGR, not {image_format}")
    ordered = image[..., ::-1] if image_format == "BGR" else image
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))


def from_model_input(image: torch.Tensor, image_format: str) -> NDArray[np.uint8]:
    """The inverse of :func:`to_model_input`: (C, H, W) tensor -> (H, W, C)."""
    ordered = image.numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(ordered[..., ::-1] if image_format == "BGR" else ordered)


def instances_from_label_maps(
    label_maps: NDArray[np.int32],
    layer_of: NDArray[np.int64],
    classes: NDArray[np.int64],
    required: NDArray[np.floating[Any]] | float = 1,
) -> Instances:
    """Ground truth from label maps in which cell i has the value i + 1.

    Args:
        label_maps: (H, W, L).
        layer_of: (N,), the label map that cell i lies in.
        classes: (N,), contiguous, or -1 for a crowd.
        required: (N,) or one number: the pixels that a cell must have. A cell with fewer, but at least one, becomes a
            crowd.

    Returns:
        The cells that have pixels, in order, with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.
    """
    height, width, layer_count = label_maps.shape
    count = len(classes)
    areas = np.bincount(label_maps.reshape(-1), minlength=count + 1)[1:]
    classes = np.where(areas >= required, classes, CROWD_CLASS)
    boxes = np.zeros((count, 4), np.float32)
    for layer in range(layer_count):
        for number, place in enumerate(find_objects(label_maps[..., layer], max_label=count)):
            if place is not None:
                rows, columns = place
                boxes[number] = (columns.start, rows.start, columns.stop, rows.stop)
    kept = np.flatnonzero(areas)
    layers = torch.from_numpy(np.ascontiguousarray(np.moveaxis(label_maps, -1, 0)))
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]))
    instances.gt_classes = torch.from_numpy(classes[kept])
    instances.gt_masks = LabelMasks(layers, torch.from_numpy(layer_of[kept]), torch.from_numpy(kept + 1))
    return instances
