"""Dataset dict -> model input. The cost of a training sample does not grow with its number of cells."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cellseg_d2.data.augmentation import build_augmentation
from cellseg_d2.data.rle import paint


class CellDatasetMapper:
    """Reads a tile, paints its cells into label maps, augments both once, and takes boxes and masks from the result.

    Args:
        is_train: whether to augment and to add the ground truth.
        augmentation: over RGB image and label maps; None leaves them as they are.
        image_format: channel order of the model's input, ``RGB`` or ``BGR``.
        min_area: cells with fewer pixels after augmentation are left out.
    """

    @configurable
    def __init__(
        self, *, is_train: bool, augmentation: T.AugmentationList | None, image_format: str, min_area: int
    ) -> None:
        self.is_train = is_train
        self.augmentation = augmentation
        self.image_format = image_format
        self.min_area = min_area

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The arguments of ``__init__``, from a config."""
        return {
            "is_train": is_train,
            "augmentation": build_augmentation(cfg) if is_train else None,
            "image_format": cfg.INPUT.FORMAT,
            "min_area": cfg.CELLSEG.MIN_AREA,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Turns a dict of Detectron2's dataset format into a model input.

        Returns:
            The dict without its annotations, with ``image``, (3, H, W) uint8 in ``image_format``, and in training
            ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.
        """
        output = copy.copy(dataset_dict)
        annotations = output.pop("annotations", [])
        image = utils.read_image(output["file_name"], format="RGB")
        utils.check_image_size(output, image)
        if self.is_train:
            cells = [cell for cell in annotations if not cell.get("iscrowd", 0)]
            layers, layer_of = paint([cell["segmentation"] for cell in cells], image.shape[:2])
            sample = T.AugInput(image, sem_seg=np.moveaxis(layers, 0, -1))
            if self.augmentation is not None:
                self.augmentation(sample)
            image = sample.image
            classes = np.array([cell["category_id"] for cell in cells], np.int64)
            label_maps = sample.sem_seg.reshape(*image.shape[:2], -1)
            output["instances"] = instances_from_label_maps(label_maps, layer_of, classes, self.min_area)
        output["image"] = to_model_input(image, self.image_format)
        return output


def to_model_input(image: NDArray[np.uint8], image_format: str) -> torch.Tensor:
    """(H, W, 3) RGB -> (3, H, W) tensor in the model's channel order. The one place that decides it.

    Raises:
        ValueError: ``image_format`` is neither ``RGB`` nor ``BGR``.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT must be RGB or BGR, not {image_format}")
    ordered = image[..., ::-1] if image_format == "BGR" else image
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))


def from_model_input(image: torch.Tensor, image_format: str) -> NDArray[np.uint8]:
    """The inverse of :func:`to_model_input`: (3, H, W) tensor -> (H, W, 3) RGB."""
    ordered = image.numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(ordered[..., ::-1] if image_format == "BGR" else ordered)


def instances_from_label_maps(
    label_maps: NDArray[np.int32], layer_of: NDArray[np.int64], classes: NDArray[np.int64], min_area: int
) -> Instances:
    """Ground truth from label maps in which cell i has the value i + 1.

    Args:
        label_maps: (H, W, L).
        layer_of: (N,), the label map that cell i lies in.
        classes: (N,), contiguous.
        min_area: cells with fewer pixels are left out.
    """
    height, width, layer_count = label_maps.shape
    numbers, boxes = [], []
    for layer in range(layer_count):
        label_map = label_maps[..., layer]
        areas = np.bincount(label_map.reshape(-1), minlength=len(classes) + 1)
        for number, place in enumerate(find_objects(label_map, max_label=len(classes))):
            if place is not None and areas[number + 1] >= max(min_area, 1):
                rows, columns = place
                numbers.append(number)
                boxes.append((columns.start, rows.start, columns.stop, rows.stop))
    kept = np.array(numbers, np.int64)
    masks = np.zeros((len(kept), height, width), bool)
    for mask, number, (x0, y0, x1, y1) in zip(masks, numbers, boxes):
        mask[y0:y1, x0:x1] = label_maps[y0:y1, x0:x1, layer_of[number]] == number + 1
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.from_numpy(classes[kept])
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances
