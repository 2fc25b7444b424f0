"""A moving average of the weights, which is often better than the weights themselves and never trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase


class WeightAverage(HookBase):
    """Exponential moving average of a model's weights (Polyak and Juditsky, 1992, with forgetting).

    The share of the old average grows from 0.1 to ``decay`` over the first iterations, min(decay, (1 + t) / (10 + t)),
    as in TensorFlow's ``ExponentialMovingAverage``, so that it does not cling to the beginning. What is no weight, such
    as the counter of a batch normalisation, is taken over as it is. Each process keeps its own; the
    parameters' are the same in all.

    Args:
        network: the model, not its DistributedDataParallel.
        decay: share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def before_train(self) -> None:
        """Begins at the weights that training begins at, unless a checkpoint had an average."""
        weights = self.network.state_dict()
        if self.average.keys() != weights.keys():
            self.average = {name: weight.detach().clone() for name, weight in weights.items()}
        self.average = {name: weight.to(weights[name].device) for name, weight in self.average.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the average towards the weights."""
        done = self.trainer.iter + 1
        decay = min(self.decay, (1 + done) / (10 + done))
        weights = self.network.state_dict()
        moving = [name for name, weight in weights.items() if weight.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in moving], [weights[name] for name in moving], 1 - decay)
        for name in weights.keys() - set(moving):
            self.average[name].copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the average as its weights, for as long as the context lasts."""
        own = {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this hook."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up from a checkpoint."""
        self.average = state["average"]
