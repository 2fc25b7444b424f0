"""A stand-in for a trained model, and the images that it reads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from cellseg_d2.cells.rle import column_runs
from cellseg_d2.config import get_cfg
from cellseg_d2.engine.launch import launch
from cellseg_d2.images.listing import InputImage
from cellseg_d2.inference import folder
from cellseg_d2.inference.folder import Output
from cellseg_d2.inference.predictor import WholeImagePredictor


class GroundTruthModel(nn.Module):
    """Stands in for a trained model: the image itself says which cell a pixel belongs to, and of which class.

    Red and green hold the label, blue the class. Like Mask R-CNN it sees a tile only, and returns small square masks.
    """

    def __init__(self, mask_size=56):
        super().__init__()
        self.mask_size = mask_size
        self.calls = []

    def inference(self, inputs, do_postprocess):
        assert not do_postprocess
        self.calls.append([tuple(sample["image"].shape[1:]) for sample in inputs])
        return [self.instances_of(sample["image"].numpy().astype(np.int64)) for sample in inputs]

    def instances_of(self, image):
        labels, classes = image[0] + 256 * image[1], image[2]
        ids, cells = column_runs(labels)
        instances = Instances(labels.shape)
        instances.pred_boxes = Boxes(torch.from_numpy(cells.boxes).float())
        instances.scores = torch.linspace(0.9, 0.8, len(cells))
        instances.pred_classes = torch.tensor([classes[labels == number].max() for number in ids]).long()
        masks = [
            nn.functional.interpolate(
                torch.from_numpy(labels[y0:y1, x0:x1] == number)[None, None].float(),
                (self.mask_size, self.mask_size),
                mode="bilinear",
            )[0]
            for number, (x0, y0, x1, y1) in zip(ids, cells.boxes)
        ]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, 1, self.mask_size, self.mask_size)
        return instances


def coded_image(label_maps: Mapping[int, NDArray[np.int32]]) -> tuple[NDArray[np.uint8], int]:
    """The image that :class:`GroundTruthModel` reads, of label maps by class number, and its number of cells."""
    image = np.zeros((*next(iter(label_maps.values())).shape, 3), np.uint8)
    count = 0
    for number, label_map in label_maps.items():
        for label in np.unique(label_map)[1:]:
            free = (label_map == label) & (image[..., :2].max(axis=2) == 0)
            if free.any():
                count += 1
                image[free] = (count % 256, count // 256, number - 1)
    return image, count


class BlobModel(GroundTruthModel):
    """Finds what is brighter than half, each connected blob a cell of class 0, whatever the magnification."""

    def instances_of(self, image):
        labels = ndimage.label(image[0] > 127)[0].astype(np.int64)
        return super().instances_of(np.stack([labels, labels * 0, labels * 0]))


def predict_in_a_process(images: Sequence[InputImage], output: Output, shared_tiles: int) -> None:
    """What each of several processes runs; images of more than ``shared_tiles`` tiles for each are shared."""
    torch.set_num_threads(1)
    folder.SHARED_TILES = shared_tiles
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']", "CELLSEG.INFERENCE.TILE_SIZE", "48"])
    model = BlobModel()
    folder.predict_images(WholeImagePredictor(model, cfg), images, output)
    (output.folder / f"calls{comm.get_rank()}").write_text(str(sum(map(len, model.calls))))


def predict_in_two_processes(images: Sequence[InputImage], output: Output, shared_tiles: int) -> None:
    """:func:`predict_in_a_process` in two processes of this machine, as ``predict --num-gpus 2`` starts them."""
    two = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    launch(predict_in_a_process, two, images, output, shared_tiles)
