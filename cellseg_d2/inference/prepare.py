"""Makes a model that has been built and loaded fast at prediction, on the device where it is."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, StandardROIHeads
from torch import nn

from cellseg_d2.errors import CellSegError
from cellseg_d2.modeling.build import computes_bfloat16
from cellseg_d2.modeling.folding import fold_norms

logger = logging.getLogger(__name__)


def prepare(model: nn.Module, cfg: CfgNode) -> None:
    """Changes a model in place so that it predicts the same, faster; it cannot be trained afterwards.

    Args:
        model: with its weights; a Detectron2 ``GeneralizedRCNN``, or one that contains such a network. Of others only
            batch normalisation is folded.
        cfg: its config; CELLSEG.INFERENCE.BACKEND and PRECISION, MODEL.DEVICE and MODEL.WEIGHTS are used.

    Raises:
        CellSegError: the backend is not installed, or does not run on this device or with this model.
    """
    model.eval()
    fold_norms(model)
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    networks = [module for module in model.modules() if isinstance(module, GeneralizedRCNN)]
    if cfg.CELLSEG.INFERENCE.BACKEND == "openvino":
        if not on_cpu:
            raise CellSegError(
                f"OpenVINO runs on CPUs, not on {cfg.MODEL.DEVICE}; write MODEL.DEVICE cpu, or --backend torch"
            )
        if not networks or any(not isinstance(network.roi_heads, StandardROIHeads) for network in networks):
            raise CellSegError(
                "OpenVINO needs MODEL.META_ARCHITECTURE GeneralizedRCNN with MODEL.ROI_HEADS.NAME CellROIHeads or "
                "CellCascadeROIHeads; write --backend torch"
            )
        from cellseg_d2.inference.openvino_backend import compile_parts

        for network in networks:
            compile_parts(network, cfg)
    elif on_cpu:
        for network in networks:
            _lay_out_for_cpu(network, cfg)


def _lay_out_for_cpu(model: nn.Module, cfg: CfgNode) -> None:
    """Orders memory by channel in those parts that are faster then; a mask head with group normalisation is not."""
    model.backbone.to(memory_format=torch.channels_last)
    model.backbone.register_forward_hook(_contiguous)  # else RoIAlign copies the features for every group of boxes
    side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    for head in [module for module in model.roi_heads.modules() if isinstance(module, FastRCNNConvFCHead)]:
        _use_convolution(head, side)
    mask_head = getattr(model.roi_heads, "mask_head", None)
    if mask_head is not None and not any(isinstance(module, nn.GroupNorm) for module in mask_head.modules()):
        mask_head.to(memory_format=torch.channels_last)


def _contiguous(
    backbone: nn.Module, images: tuple[torch.Tensor, ...], features: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A forward hook: the features in the order of their axes."""
    return {name: feature.contiguous() for name, feature in features.items()}


def _use_convolution(head: FastRCNNConvFCHead, side: int) -> None:
    """Makes the first full layer of a box head the convolution of side x side pixels that it is.

    On AMD's CPUs oneDNN's convolution takes half the time of the matrix product that torch calls.
    """
    full = getattr(head, "fc1", None)
    if full is None:
        return
    weight = full.weight.detach().view(full.out_features, -1, side, side)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], side)
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(full.bias.detach(), requires_grad=False)
    head.flatten, head.fc1 = nn.Identity(), nn.Sequential(conv, nn.Flatten())


def use_available_prediction_precision(cfg: CfgNode) -> None:
    """Predicts in float32, with a notice, where the device cannot compute in CELLSEG.INFERENCE.PRECISION."""
    options = cfg.CELLSEG.INFERENCE
    if options.PRECISION == "bfloat16" and not computes_bfloat16(cfg.MODEL.DEVICE):
        logger.warning("%s has no bfloat16 arithmetic; predicting in float32", cfg.MODEL.DEVICE)
        options.PRECISION = "float32"


def precision(cfg: CfgNode) -> AbstractContextManager[object]:
    """A context in which torch computes as CELLSEG.INFERENCE.PRECISION says; OpenVINO's parts know it themselves."""
    if cfg.CELLSEG.INFERENCE.PRECISION == "float32":
        return contextlib.nullcontext()
    return torch.autocast(cfg.MODEL.DEVICE.partition(":")[0], torch.bfloat16)
