"""Losses on validation data, computed without any effect on training."""

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
"""The seed for what the losses sample, so that two evaluations differ only by the weights."""


@torch.no_grad()
def validation_losses(network: nn.Module, cfg: CfgNode, dataset_name: str) -> dict[str, float]:
    """Mean losses over the tiles of a dataset, without augmentation.

    The model computes as in training, but its batch statistics, the random state and the training log do not change.
    Each process takes its share of the tiles.

    Args:
        network: the model, not its DistributedDataParallel; its training mode is restored.
        cfg: its INPUT, DATALOADER and CELLSEG are used.
        dataset_name: a registered dataset.

    Returns:
        Each loss by its name, and ``total_loss``; empty on all processes but the first, and without a tile.
    """
    # the random state comes first, because the loader's workers are seeded from it
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
    """Training mode, in which Detectron2's models return losses, but not for layers that would learn from the data."""
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
    """Seeds torch with :data:`SEED`, and restores its random state afterwards."""
    devices: list[Any] = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(SEED)
        yield
