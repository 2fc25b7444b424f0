"""A moving average of the weights during training, which often predicts better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase


class WeightAverage(HookBase):
    """Exponential moving average of a model's weights (Polyak and Juditsky, 1992, with forgetting).

    The share of the old average grows from 0.1 to ``decay`` over the first iterations, as
    min(decay, (1 + t) / (10 + t)), so that the first weights do not dominate (TensorFlow's ``ExponentialMovingAverage``
    does the same). Values that are no weights, such as the counter of a batch normalisation, are copied. Each process
    has an average; those of the parameters are the same in all.

    Args:
        network: the model, not its DistributedDataParallel.
        decay: share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def before_train(self) -> None:
        """Starts from the weights that training starts from, unless a checkpoint had an average."""
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
        """A context in which the model has the average as its weights."""
        weights = {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        try:
            yield
        finally:
            self.network.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """The state of this hook for a checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self.average = state["average"]
