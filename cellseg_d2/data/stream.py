"""The stream of training samples: the same whatever the number of workers, and taken up at any place after a stop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from cellseg_d2.errors import CellSegError

logger = logging.getLogger(__name__)

SEED_KEY = "augmentation_seed"
"""In a dataset dict: what the sample's augmentation is drawn from."""

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
"""Detectron2's samplers whose stream depends on the seed alone; the second repeats tiles of rare classes."""


class StreamDataset(Dataset[dict[str, Any]]):
    """Dataset dicts by a number that says which one, and at which place of the stream.

    Args:
        dicts: of Detectron2's dataset format.
        seed: of the augmentations; together with the place it gives each sample a seed of its own.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], seed: int) -> None:
        self.dicts = dicts
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, code: int) -> dict[str, Any]:
        """The dict of :meth:`StreamSampler.__iter__`'s code, with :data:`SEED_KEY`."""
        place, index = divmod(code, len(self.dicts))
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        return {**self.dicts[index], SEED_KEY: seed}


class StreamSampler(Sampler[int]):
    """One of Detectron2's endless samplers, from any place of its stream on.

    Args:
        sampler: shared by all processes, of which each yields its own part.
        size: of the dataset.
        start: samples of the stream, over all processes, that were used before.
    """

    def __init__(self, sampler: Sampler[int], size: int, start: int = 0) -> None:
        self.sampler = sampler
        self.size = size
        self.start = start

    def __iter__(self) -> Iterator[int]:
        """``place in the stream x size of the dataset + index``, which :class:`StreamDataset` takes apart."""
        rank, processes = comm.get_rank(), comm.get_world_size()
        for turn, index in enumerate(self.sampler):
            place = turn * processes + rank
            if place >= self.start:
                yield place * self.size + index


def build_stream(cfg: CfgNode, seed: int, start: int = 0) -> tuple[StreamDataset, StreamSampler]:
    """The training samples of a config, in the order in which they are trained on.

    Args:
        cfg: DATASETS.TRAIN and DATALOADER are used.
        seed: of the order and of the augmentations.
        start: samples that were used before, over all processes.

    Raises:
        CellSegError: DATALOADER.SAMPLER_TRAIN is none of those whose stream can be taken up again.
    """
    check_sampler(cfg)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    sampler: Sampler[int] = TrainingSampler(len(dicts), seed=seed)
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        _log_shares(dicts, factors, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
        sampler = RepeatFactorTrainingSampler(factors, seed=seed)
    # serialised: worker processes share one copy, which plain dicts lose as their reference counts are touched
    return StreamDataset(DatasetFromList(dicts, copy=False), seed), StreamSampler(sampler, len(dicts), start)


def check_sampler(cfg: CfgNode) -> None:
    """Raises CellSegError where the stream of DATALOADER.SAMPLER_TRAIN could not be taken up again."""
    if cfg.DATALOADER.SAMPLER_TRAIN not in SAMPLERS:
        raise CellSegError(f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN}; write {' or '.join(SAMPLERS)}")


def _log_shares(dicts: Sequence[dict[str, Any]], factors: torch.Tensor, names: Sequence[str]) -> None:
    """Says how much more often tiles of rare classes come, and what that makes of the classes' shares."""
    plain: Counter[int] = Counter()
    repeated: Counter[int] = Counter()
    for sample, factor in zip(dicts, factors.tolist()):
        own = Counter(cell["category_id"] for cell in sample["annotations"] if not cell.get("iscrowd"))
        plain.update(own)
        repeated.update({number: count * factor for number, count in own.items()})
    before, after = max(sum(plain.values()), 1), max(sum(repeated.values()), 1)
    shares = ", ".join(
        f"{name} {100 * plain[number] / before:.1f} -> {100 * repeated[number] / after:.1f} %"
        for number, name in enumerate(names)
    )
    logger.info("tiles come up to %.2f times an epoch; shares of the cells: %s", float(factors.max()), shares)
