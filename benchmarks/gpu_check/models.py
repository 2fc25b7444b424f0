"""Forward passes, losses and steps of mixed precision of models with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.overrides import TorchFunctionMode

from benchmarks.gpu_check.findings import SEED, Finding, Settings, Side, compared, full_precision, model_cfg, relative
from benchmarks.table import number
from benchmarks.train_sides import Sample, draw_samples, scale_branches
from benchmarks.train_sides import Settings as Drawing
from cellseg_d2.engine.loop import build_loop
from cellseg_d2.engine.optimizer import build_optimizer

CELLS = 9
"""In each drawn tile."""

FEATURES_ALLOWED, LOSS_ALLOWED, GRADIENT_ALLOWED = 1e-3, 1e-3, 1e-2
"""Relative differences of two devices that both compute in float32; a gradient jumps where an activation is near 0."""

MIXED_ALLOWED = 0.05
"""The same of a loss in mixed precision: bfloat16 keeps 8 bits of each value."""

STEPS = 8
"""In float16 the first of them may be left out, until the scale of the losses fits."""


class DrawOnCPU(TorchFunctionMode):
    """Random numbers that are asked for on a device are drawn on the CPU, so that two devices draw the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See ``torch.overrides``."""
        kwargs = dict(kwargs or {})
        if func in (torch.rand, torch.randn, torch.randint, torch.randperm):
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Outcome:
    """What a model gives for a batch: one number a loss; all features in one row, and all gradients."""

    features: torch.Tensor
    losses: dict[str, float]
    gradient: torch.Tensor


def random_model(name: str, side: Side) -> torch.nn.Module:
    """The model of a config on a device, with weights that depend on the seed alone."""
    torch.manual_seed(SEED)
    model = build_model(model_cfg(name, side))
    scale_branches(model)
    return model.train()


def tiles(side: int) -> list[Sample]:
    """A batch of two drawn tiles."""
    samples = draw_samples(Drawing(side=side), CELLS)
    for sample in samples:
        sample["instances"].gt_classes %= 2
    return samples


def outcome(name: str, side: Side, batch: list[Sample]) -> Outcome:
    """A forward and a backward pass in float32."""
    model = random_model(name, side)
    torch.manual_seed(SEED)
    kernels = nullcontext() if side.onednn else torch.backends.mkldnn.flags(enabled=False)
    with EventStorage(), full_precision(), DrawOnCPU(), kernels:
        with torch.no_grad():
            features = model.backbone(model.preprocess_image(batch).tensor)
        losses = model(batch)
        sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    return Outcome(_flat(features.values()), values, _flat(gradients))


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu()


def compare_models(name: str, settings: Settings) -> Iterator[Finding]:
    """Features, gradient and losses of a config on both sides."""
    batch = tiles(settings.side)
    expected, found = (outcome(name, side, batch) for side in (settings.reference, settings.device))
    yield _lengths(f"{name}: features", expected.features, found.features, FEATURES_ALLOWED)
    yield _lengths(f"{name}: gradient", expected.gradient, found.gradient, GRADIENT_ALLOWED)
    for loss, value in expected.losses.items():
        other = found.losses.get(loss, float("nan"))
        difference = abs(other - value) / max(abs(value), 1e-30)
        yield compared(f"{name}: {loss}", (number(value), number(other)), difference, LOSS_ALLOWED)


def _lengths(check: str, expected: torch.Tensor, found: torch.Tensor, allowed: float) -> Finding:
    """The finding of two vectors, of which the table has the lengths."""
    given = number(float(expected.norm())), number(float(found.norm()))
    return compared(check, given, relative(found, expected), allowed)


def mixed_steps(precision: str, settings: Settings) -> Iterator[Finding]:
    """Steps of mixed precision: the first loss is that of float32 on the reference, and the weights move."""
    name, side = settings.step_config, settings.device
    check = f"{name}: {STEPS} steps in {precision}"
    if side.device == "cpu" and precision == "float16":
        yield Finding(check, ended="not run: float16 needs CUDA")
        return
    batch = tiles(settings.side)
    expected = sum(outcome(name, settings.reference, batch).losses.values())
    cfg = model_cfg(name, side)
    cfg.SOLVER.AMP.ENABLED, cfg.CELLSEG.AMP_DTYPE = True, precision
    model = random_model(name, side)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    torch.manual_seed(SEED)
    loop = build_loop(cfg, model, repeat(batch), build_optimizer(cfg, model))
    with DrawOnCPU():
        loop.train(0, STEPS)
    losses = [value for value, _ in loop.storage.history("total_loss").values()]
    given, difference = (number(expected), number(losses[0])), abs(losses[0] - expected) / expected
    yield compared(f"{check}: first loss", given, difference, MIXED_ALLOWED)
    moved = [not torch.equal(*pair) for pair in zip(before, model.parameters()) if pair[1].requires_grad]
    sound = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    text = f"{sum(moved)} of {len(moved)} weights moved, last loss {number(losses[-1])}"
    yield Finding(check, device=text, ended="ok" if sound and sum(moved) > len(moved) / 2 else "FAILED")
