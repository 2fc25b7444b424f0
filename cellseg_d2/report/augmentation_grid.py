"""Pictures of training tiles, before and after augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from numpy.typing import NDArray

from cellseg_d2.cells.arrays import Bools
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.data.channels import channels_of
from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper, from_model_input
from cellseg_d2.errors import counted
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.overlay import LINE, class_keys, draw_overlay, write_picture
from cellseg_d2.report.panels import cell_panel, count_text, size_of
from cellseg_d2.report.sheet import Panel, Size, draw_block, stacked
from cellseg_d2.structures import CROWD_CLASS

OUTSIDE = "white: outside of the tile, black in training"


def write_augmentation_grid(
    cfg: CfgNode, output: Path, samples: int = 3, augmentations: int = 10, seed: int = 42
) -> None:
    """Writes a PNG with a block per sample, the training tile and beside it augmented copies, below a legend.

    What lies outside of a tile, such as the corners of one that was turned, is white here; training sees it black.

    Args:
        cfg: a resolved config; the first of DATASETS.TRAIN is shown, its tiles with the most cells first.
        output: the PNG.
        samples: number of blocks.
        augmentations: augmented copies per block.
        seed: random seed for the augmentations.
    """
    seed_all_rng(seed)
    plain = CellDatasetMapper(cfg, is_train=True)
    plain.augmentation = None
    dicts = sorted(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]), key=lambda sample: -len(sample["annotations"]))
    augmented = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dicts))
    recorder = _Recorder(augmented.augmentation)
    augmented.augmentation = recorder
    blocks = []
    for sample in dicts[:samples]:
        original = _picture_and_cells(plain(sample), cfg)
        copies = []
        for _ in range(augmentations):
            copy = _picture_and_cells(augmented(sample), cfg)
            copies.append(_copy_panel(copy, original[0], recorder.inside(original[0])))
        title = f"original: {Path(sample['file_name']).stem}, {count_text(len(original[1]))}"
        copied = counted(augmentations, "augmented copy", "augmented copies")
        blocks.append(draw_block(cell_panel(title, *original), copies, f"{copied} ({OUTSIDE})"))
    write_picture(output, stacked(blocks, class_keys(cfg.CELLSEG.CLASS_NAMES)))


class _Recorder:
    """An augmentation that remembers what it did last."""

    def __init__(self, augmentation: T.AugmentationList) -> None:
        self.augmentation = augmentation
        self.last = T.TransformList([])

    def __call__(self, sample: T.AugInput) -> T.TransformList:
        self.last = self.augmentation(sample)
        return self.last

    def inside(self, image: NDArray[np.uint8]) -> Bools:
        """(H, W) bool: the pixels of the last result that show nothing but the image it was made from."""
        inside = self.last.apply_segmentation(np.ones(image.shape[:2], np.int32)).astype(np.uint8)
        return cv2.erode(inside, np.ones((3, 3), np.uint8)).astype(bool)  # its rim is mixed with what lies outside


def _copy_panel(copy: tuple[NDArray[np.uint8], CellInstances], original: NDArray[np.uint8], inside: Bools) -> Panel:
    """An augmented copy: its contrast is stretched as the original's, so that its brightness may be compared."""
    image, cells = copy
    shown = stretched(image, original)

    def draw(size: Size) -> NDArray[np.uint8]:
        picture = draw_overlay(shown, cells, size=size, line=LINE)
        picture[cv2.resize(inside.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) == 0] = 255
        return picture

    return Panel("", size_of(image), draw)


def _picture_and_cells(sample: dict[str, Any], cfg: CfgNode) -> tuple[NDArray[np.uint8], CellInstances]:
    image = channels_of(cfg).picture(from_model_input(sample["image"], cfg.INPUT.FORMAT))
    return image, _ground_truth(sample["instances"])


def _ground_truth(instances: Instances) -> CellInstances:
    """The cells of a training sample, without crowds; masks are cropped to their boxes."""
    instances = instances[instances.gt_classes != CROWD_CLASS]
    boxes = instances.gt_boxes.tensor.numpy()
    places = boxes.astype(np.int64)
    masks = [mask[y0:y1, x0:x1].numpy() for mask, (x0, y0, x1, y1) in zip(instances.gt_masks, places)]
    scores = np.ones(len(boxes), np.float32)
    return CellInstances(instances.image_size, boxes, scores, instances.gt_classes.numpy(), masks, places[:, :2])
