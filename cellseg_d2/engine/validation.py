"""Losses on data that is not trained on, without a trace in what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from cellseg_d2.data.mapper import CellDatasetMapper

SEED = 0
"""Of what the losses sample, so that two evaluations differ by the weights alone."""


@torch.no_grad()
def validation_losses(network: nn.Module, cfg: CfgNode, dataset_name: str) -> dict[str, float]:
    """Mean losses over the tiles of a dataset as they are, without augmentation.

    The model computes as in training, but neither its batch statistics nor the random state nor the log of the training
    run notice. Each process takes its share of the tiles.

    Args:
        network: the model, not its DistributedDataParallel; training or not, it is left as it was.
        cfg: its INPUT, DATALOADER and CELLSEG are used.
        dataset_name: a registered dataset.

    Returns:
        Each loss by its name, and ``total_loss``; empty on all processes but the first, and without a tile.
    """
    # random state first: the loader's workers are seeded from it
    with _random_state_kept(), _losses_without_statistics(network), EventStorage():
        mapper = CellDatasetMapper(cfg, is_train=True, augmentation=None)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        sums: Counter[str] = Counter()
        for inputs in loader:
            sums.update({name: float(loss) for name, loss in network(inputs).items()})
            sums["tiles"] += 1
    total: Counter[str] = Counter()
    for part in comm.gather(dict(sums)):
        total.update(part)
    tiles = total.pop("tiles", 0)
    if not tiles:
        return {}
    means = {name: value / tiles for name, value in total.items()}
    return {**means, "total_loss": sum(means.values())}


@contextmanager
def _losses_without_statistics(network: nn.Module) -> Iterator[None]:
    """Training mode, in which Detectron2's models give losses, except for layers that would learn from the data."""
    modes = {module: module.training for module in network.modules()}
    network.train()
    for module in modes:
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Torch's random state as :data:`SEED` makes it, and as it was afterwards."""
    devices: list[Any] = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(SEED)
        yield
