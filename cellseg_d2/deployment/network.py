"""A Detectron2 model as one ONNX file: an RGB image in, its detections out."""

from __future__ import annotations

import inspect
import warnings
from contextlib import ExitStack
from pathlib import Path

import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from cellseg_d2.deployment.deformable import without_deformable_operators
from cellseg_d2.modeling.roi_heads import CellROIHeads

OPSET = 17
"""The version of ONNX's operators; 16 is the first with RoIAlign's half pixels and with GridSample."""

OUTPUTS = ("boxes", "scores", "classes", "masks")


class ImageNetwork(nn.Module):
    """A Detectron2 ``GeneralizedRCNN`` with tensors in and out, for one image.

    Args:
        model: with box and mask heads.
        image_format: the order of its channels, INPUT.FORMAT.
    """

    def __init__(self, model: nn.Module, image_format: str) -> None:
        super().__init__()
        self.model = without_deformable_operators(model)
        self.is_bgr = image_format == "BGR"
        self.eval()  # all of it, as the exporter gives every part the mode of the whole back

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Finds cells.

        Args:
            image: (1, 3, H, W) float32 RGB in 0..255.

        Returns:
            (N, 4) boxes in pixels, (x0, y0, x1, y1); (N,) scores; (N,) int64 classes, counted
            from 1, as bioimage.io's checks refuse outputs that are 0 everywhere; (N, M, M) probabilities of masks
            inside the boxes.
        """
        model = self.model
        pixels = image[0].flip(0) if self.is_bgr else image[0]
        pixels = (pixels - model.pixel_mean) / model.pixel_std
        images = ImageList.from_tensors([pixels], model.backbone.size_divisibility)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        (found,) = model.roi_heads._forward_box(features, proposals)
        boxes, classes = found.pred_boxes.tensor, found.pred_classes
        # One box more, because PointRend's layers and some runtimes cannot compute the masks of no box
        asked = Instances(images.image_sizes[0])
        asked.pred_boxes = Boxes(torch.cat([boxes, boxes.new_tensor([[0.0, 0.0, 8.0, 8.0]])]))
        asked.pred_classes = torch.cat([classes, classes.new_zeros(1)])
        (masked,) = model.roi_heads.forward_with_given_boxes(features, [asked])
        found.pred_masks = masked.pred_masks[:-1]
        if isinstance(model.roi_heads, CellROIHeads):
            (found,) = model.roi_heads.classified([found])
        return found.pred_boxes.tensor, found.scores, found.pred_classes + 1, found.pred_masks[:, 0]


def write_onnx(network: ImageNetwork, example: Tensor, path: Path) -> None:
    """Writes a network that takes images of any size.

    Args:
        network: is traced, which changes nothing of it.
        example: (1, 3, H, W) float32 RGB, an image in which the network finds cells.
        path: the file to write.
    """
    axes = {"image": {2: "height", 3: "width"}, **{name: {0: "cells"} for name in OUTPUTS}}
    # torch's newer exporter cannot follow sizes that depend on what is in the image; torch 2.3 has the older one alone
    older = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # on checks of shapes that become constants, in Detectron2 and torch
        # numbers of boxes stay variables
        stack.enter_context(patch_builtin_len(["detectron2.projects.point_rend.mask_head"]))
        stack.enter_context(torch.no_grad())
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            **older,
        )
