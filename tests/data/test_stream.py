"""The stream of training samples: the same for any number of workers, and from any place on."""

import itertools
import logging

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_d2.config import get_cfg
from cellseg_d2.data.mapper import CellDatasetMapper
from cellseg_d2.data.stream import SEED_KEY, StreamDataset, StreamSampler, build_stream
from cellseg_d2.errors import CellSegError

DICTS = [{"image_id": number} for number in range(7)]


def take(dataset, sampler, count):
    return [dataset[code] for code in itertools.islice(sampler, count)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(0, 5))
def test_a_stream_is_taken_up_where_it_was_left(start, seed):
    dataset = StreamDataset(DICTS, seed)
    whole = take(dataset, StreamSampler(TrainingSampler(7, seed=seed), 7), start + 10)
    rest = take(dataset, StreamSampler(TrainingSampler(7, seed=seed), 7, start), 10)
    assert rest == whole[start:]


def test_each_place_has_a_seed_of_its_own_and_every_epoch_all_samples():
    samples = take(StreamDataset(DICTS, 3), StreamSampler(TrainingSampler(7, seed=3), 7), 21)
    assert len({sample[SEED_KEY] for sample in samples}) == 21
    for epoch in range(3):
        assert sorted(sample["image_id"] for sample in samples[7 * epoch : 7 * epoch + 7]) == list(range(7))


def _first_batches(cfg, workers, seed=5, start=0):
    dataset, sampler = build_stream(cfg, seed, start)
    loader = build_detection_train_loader(
        dataset,
        mapper=CellDatasetMapper(cfg, is_train=True),
        sampler=sampler,
        total_batch_size=4,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    return list(itertools.islice(loader, 3))


def _cfg(*opts):
    return get_cfg("mask_rcnn_lite0_FPN", ["DATASETS.TRAIN", "('nuclei_train',)", *opts])


def test_an_epochs_augmentations_do_not_depend_on_the_workers(nuclei):
    alone, shared = (_first_batches(_cfg(), workers) for workers in (0, 2))
    for one, other in zip(itertools.chain(*alone), itertools.chain(*shared)):
        assert one["file_name"] == other["file_name"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.layers, other["instances"].gt_masks.layers)
    again = _first_batches(_cfg(), 0, start=4)
    assert torch.equal(again[0][0]["image"], alone[1][0]["image"])


def test_another_seed_gives_other_samples(nuclei):
    one, other = (_first_batches(_cfg(), 0, seed)[0][0] for seed in (5, 6))
    assert one["image"].shape != other["image"].shape or not torch.equal(one["image"], other["image"])


def test_a_samples_augmentation_leaves_numpys_state_alone(nuclei):
    dataset, sampler = build_stream(_cfg(), 1)
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    CellDatasetMapper(_cfg(), is_train=True)(dataset[next(iter(sampler))])
    assert np.random.random() == expected


def test_tiles_of_rare_classes_come_more_often_and_it_is_said(nuclei, caplog):
    opts = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "1.0"]
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        dataset, sampler = build_stream(_cfg(*opts), 0)
    samples = take(dataset, sampler, 400)
    rare = [any(cell["category_id"] == 3 for cell in sample["annotations"]) for sample in samples]
    plain = [any(cell["category_id"] == 3 for cell in sample["annotations"]) for sample in dataset.dicts]
    assert np.mean(rare) > np.mean(plain)
    assert "class4" in caplog.text


def test_a_sampler_that_cannot_be_resumed_is_refused(nuclei):
    with pytest.raises(CellSegError, match="RandomSubsetTrainingSampler; write TrainingSampler"):
        build_stream(_cfg("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"), 0)
