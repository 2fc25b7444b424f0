"""The stream of training samples: the same for any number of workers, and resumable at any place."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from cellseg_d2.config_checks import check_sampler
from cellseg_d2.conversion.suggestions import repeat_threshold
from cellseg_d2.data.class_shares import cells_by_tile_and_class, share_changes
from cellseg_d2.data.image_kinds import kind_factors

logger = logging.getLogger(__name__)

SEED_KEY = "augmentation_seed"
"""Key of a dataset dict: the seed of the sample's augmentation."""


class StreamDataset(Dataset[dict[str, Any]]):
    """Dataset dicts, looked up by a code that says which dict, and at which place of the stream it is used.

    Args:
        dicts: dataset dicts in Detectron2's format.
        seed: random seed for the augmentations; together with the place in the stream it gives each sample a seed.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], seed: int) -> None:
        self.dicts = dicts
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, code: int) -> dict[str, Any]:
        """The dict for a code of :meth:`StreamSampler.__iter__`, with :data:`SEED_KEY`."""
        place, index = divmod(code, len(self.dicts))
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        return {**self.dicts[index], SEED_KEY: seed}


class StreamSampler(Sampler[int]):
    """One of Detectron2's endless samplers, started at any place of its stream.

    Args:
        sampler: the same in all processes; it yields each process its part.
        size: number of samples in the dataset.
        start: samples of the stream, over all processes, that were used before.
    """

    def __init__(self, sampler: Sampler[int], size: int, start: int = 0) -> None:
        self.sampler = sampler
        self.size = size
        self.start = start

    def __iter__(self) -> Iterator[int]:
        """Codes, ``place in the stream x size of the dataset + index``, which :class:`StreamDataset` takes apart."""
        rank, processes = comm.get_rank(), comm.get_world_size()
        for turn, index in enumerate(self.sampler):
            place = turn * processes + rank
            if place >= self.start:
                yield place * self.size + index


def build_stream(cfg: CfgNode, seed: int, start: int = 0) -> tuple[StreamDataset, StreamSampler]:
    """The training samples of a config, in the order in which they are trained on.

    Args:
        cfg: DATASETS.TRAIN and DATALOADER are used; see :func:`repeat_factors` for the RepeatFactorTrainingSampler.
        seed: random seed for the order and the augmentations.
        start: samples that were used before, over all processes.

    Raises:
        CellSegError: see :func:`cellseg_d2.config_checks.check_sampler`.
    """
    check_sampler(cfg)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    sampler: Sampler[int] = TrainingSampler(len(dicts), seed=seed)
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        sampler = RepeatFactorTrainingSampler(repeat_factors(cfg, dicts), seed=seed)
    elif cfg.CELLSEG.BALANCE_KINDS > 0:
        sampler = RepeatFactorTrainingSampler(kind_factors(dicts, cfg.CELLSEG.BALANCE_KINDS), seed=seed)
    # Serialised, so that worker processes share one copy. Plain dicts are copied as their reference counts change.
    return StreamDataset(DatasetFromList(dicts, copy=False), seed), StreamSampler(sampler, len(dicts), start)


def repeat_factors(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> torch.Tensor:
    """How often per epoch each tile is used, by its rarest class; a log line says what this does to each class.

    This is repeat-factor sampling (Gupta et al., LVIS, CVPR 2019): a class that is in the share f of all tiles makes
    these come max(1, sqrt(t / f)) times, or t / f times without DATALOADER.REPEAT_SQRT. It differs from Detectron2's
    ``repeat_factors_from_category_frequency`` in one point: crowds do not count as cells, because they are not learnt.
    Otherwise an ``ignore.tif``, whose regions are crowds of every class, would put all classes into its tile.

    Args:
        cfg: DATALOADER.REPEAT_THRESHOLD is t. Where it is 0, Detectron2's default, t comes from
            :func:`cellseg_d2.conversion.suggestions.repeat_threshold`.
        dicts: T dicts in Detectron2's dataset format.

    Returns:
        (T,) float32.
    """
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    cells = cells_by_tile_and_class(dicts, len(names))
    shares = (cells > 0).mean(axis=0)
    power = 0.5 if cfg.DATALOADER.REPEAT_SQRT else 1.0
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    if not threshold and shares.any():
        threshold = repeat_threshold(float(shares[shares > 0].min()), float(shares.max()), power)
    rarity = np.divide(threshold, shares, out=np.ones(len(names)), where=shares > 0)
    by_class = np.maximum(rarity**power, 1)
    factors = np.where(cells > 0, by_class, 1).max(axis=1)
    shares_of_cells = share_changes(cells.sum(axis=0), factors @ cells)
    changes = ", ".join(
        f"{name} x {times:.2f}, {share}" for name, times, share in zip(names, by_class, shares_of_cells)
    )
    logger.info("repeat threshold %.3g; how often a class's tiles come, its share of cells: %s", threshold, changes)
    return torch.from_numpy(factors.astype(np.float32))
