"""Pictures of training tiles, before and after augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from numpy.typing import NDArray

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.data.channels import channels_of
from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper, from_model_input
from cellseg_d2.export.overlay import draw_grid, draw_overlay, write_picture
from cellseg_d2.structures import CROWD_CLASS


def write_augmentation_grid(
    cfg: CfgNode, output: Path, samples: int = 3, augmentations: int = 10, seed: int = 42
) -> None:
    """Writes a PNG with one row per sample: the training tile, then augmented copies of it.

    Args:
        cfg: a resolved config; the first of DATASETS.TRAIN is shown, its tiles with the most cells first.
        output: the PNG.
        samples: number of rows.
        augmentations: augmented copies per row.
        seed: random seed for the augmentations.
    """
    seed_all_rng(seed)
    plain = CellDatasetMapper(cfg, is_train=True)
    plain.augmentation = None
    dicts = sorted(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]), key=lambda sample: -len(sample["annotations"]))
    augmented = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dicts))
    pictures = [
        _draw(mapper(sample), cfg) for sample in dicts[:samples] for mapper in [plain] + [augmented] * augmentations
    ]
    write_picture(output, draw_grid(pictures, columns=augmentations + 1))


def _draw(sample: dict[str, Any], cfg: CfgNode) -> NDArray[np.uint8]:
    image = channels_of(cfg).picture(from_model_input(sample["image"], cfg.INPUT.FORMAT))
    return draw_overlay(image, _ground_truth(sample["instances"]))


def _ground_truth(instances: Instances) -> CellInstances:
    """The cells of a training sample, without crowds; masks are cropped to their boxes."""
    instances = instances[instances.gt_classes != CROWD_CLASS]
    boxes = instances.gt_boxes.tensor.numpy()
    places = boxes.astype(np.int64)
    masks = [mask[y0:y1, x0:x1].numpy() for mask, (x0, y0, x1, y1) in zip(instances.gt_masks, places)]
    scores = np.ones(len(boxes), np.float32)
    return CellInstances(instances.image_size, boxes, scores, instances.gt_classes.numpy(), masks, places[:, :2])
