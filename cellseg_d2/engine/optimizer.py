"""The optimizer: SGD or AdamW, and gradient clipping in one call, where Detectron2 makes ten calls per parameter."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

SMALL = 1e-6
"""What ``torch.nn.utils.clip_grad_norm_`` adds to a norm that it divides by."""

SHAPE_RATE = 5.0
"""AdamW's rate for the shape classifier, times that of all else: at theirs it has not learnt enough after 300 steps."""


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of :func:`build_unclipped`, which clips gradients as SOLVER.CLIP_GRADIENTS says."""
    optimizer, options = build_unclipped(cfg, model), cfg.SOLVER.CLIP_GRADIENTS
    if not options.ENABLED or options.CLIP_TYPE != "norm":
        return maybe_add_gradient_clipping(cfg, optimizer)

    def clip(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        clip_norms(optimizer, options.CLIP_VALUE, options.NORM_TYPE)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def build_unclipped(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that CELLSEG.OPTIMIZER names: Detectron2's SGD, or AdamW with the same groups of parameters.

    AdamW is that of Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019. Its rate is :data:`SHAPE_RATE`
    times as high for the shape classifier, but for biases where SOLVER.BIAS_LR_FACTOR sets theirs.
    """
    solver, adamw = cfg.SOLVER, cfg.CELLSEG.OPTIMIZER == "adamw"
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: SHAPE_RATE if adamw and ".shape_classifier." in name else 1.0,
    )
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if adamw:
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)


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
