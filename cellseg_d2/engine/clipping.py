"""Gradient clipping of all parameters with their norms in one call, where Detectron2 makes ten calls for each."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

SMALL = 1e-6
"""What ``torch.nn.utils.clip_grad_norm_`` adds to a norm that it divides by."""


def build_clipped_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Detectron2's optimizer; where SOLVER.CLIP_GRADIENTS limits norms, each gradient's as there, only faster."""
    options = cfg.SOLVER.CLIP_GRADIENTS
    if not options.ENABLED or options.CLIP_TYPE != "norm":
        return DefaultTrainer.build_optimizer(cfg, model)
    unclipped = cfg.clone()
    unclipped.defrost()
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = DefaultTrainer.build_optimizer(unclipped, model)

    def clip(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        clip_norms(optimizer, options.CLIP_VALUE, options.NORM_TYPE)

    optimizer.register_step_pre_hook(clip)
    return optimizer


@torch.no_grad()
def clip_norms(optimizer: torch.optim.Optimizer, most: float, kind: float) -> None:
    """Shortens in place each gradient that is longer than ``most``, to that, in the norm of that ``kind``."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    factors = (most / (torch.stack(torch._foreach_norm(gradients, kind)) + SMALL)).clamp(max=1.0)
    if gradients[0].device.type == "cpu":  # to look at them costs nothing there, and most are 1
        long = [(gradient, factor) for gradient, factor in zip(gradients, factors.tolist()) if factor != 1]
        for gradient, factor in long:
            gradient.mul_(factor)
    else:
        torch._foreach_mul_(gradients, list(factors.unbind()))
