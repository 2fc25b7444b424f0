"""The stream of training samples: the same for any number of workers, and from any place on."""

import itertools
import logging

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from drawing import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_d2.config import get_cfg
from cellseg_d2.config_checks import check_values
from cellseg_d2.conversion.suggestions import repeat_threshold
from cellseg_d2.data.copy_paste import build_copy_paste
from cellseg_d2.data.mapper import CellDatasetMapper
from cellseg_d2.data.stream import SEED_KEY, StreamDataset, StreamSampler, build_stream, repeat_factors
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
        mapper=CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dataset.dicts)),
        sampler=sampler,
        total_batch_size=4,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    return list(itertools.islice(loader, 3))


def _cfg(*opts):
    return get_cfg("mask_rcnn_lite0_FPN", ["DATASETS.TRAIN", "('nuclei_train',)", *opts])


@pytest.mark.parametrize("probability", [0.0, 0.9], ids=["augmented", "with copy-paste"])
def test_samples_do_not_depend_on_the_workers(probability, nuclei):
    cfg = _cfg("CELLSEG.AUG.COPY_PASTE_PROB", str(probability))
    alone, shared = (_first_batches(cfg, workers) for workers in (0, 2))
    for one, other in zip(itertools.chain(*alone), itertools.chain(*shared)):
        assert one["file_name"] == other["file_name"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.layers, other["instances"].gt_masks.layers)
        assert torch.equal(one["instances"].gt_classes, other["instances"].gt_classes)
    again = _first_batches(cfg, 0, start=4)
    assert torch.equal(again[0][0]["image"], alone[1][0]["image"])


def test_another_seed_gives_other_samples(nuclei):
    one, other = (_first_batches(_cfg(), 0, seed)[0][0] for seed in (5, 6))
    assert one["image"].shape != other["image"].shape or not torch.equal(one["image"], other["image"])


def test_a_sample_leaves_numpys_state_alone(nuclei):
    cfg = _cfg("CELLSEG.AUG.COPY_PASTE_PROB", "1.0")
    dataset, sampler = build_stream(cfg, 1)
    mapper = CellDatasetMapper(cfg, is_train=True, copy_paste=build_copy_paste(cfg, dataset.dicts))
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    mapper(dataset[next(iter(sampler))])
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


CLASSES = ("common", "half", "rare", "nowhere")


def _tiles(*cells):
    """Dataset dicts with cells of these classes; a number below 0 is a crowd of class -1 - number."""
    return [
        {"annotations": [{"category_id": max(number, -1 - number), "iscrowd": int(number < 0)} for number in own]}
        for own in cells
    ]


def _repeats(threshold=0.0, use_sqrt=True):
    """A config that repeats tiles of a dataset with CLASSES."""
    MetadataCatalog.get("tiles_by_class").set(thing_classes=list(CLASSES))
    values = {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_THRESHOLD": threshold, "REPEAT_SQRT": use_sqrt}
    opts = [text for key, value in values.items() for text in (f"DATALOADER.{key}", str(value))]
    return get_cfg("mask_rcnn_lite0_FPN", ["DATASETS.TRAIN", "('tiles_by_class',)", *opts])


@drawn
@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=12), st.floats(0.01, 2), st.booleans())
def test_without_crowds_repeats_are_detectron2s(cells, threshold, use_sqrt):
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        _tiles(*cells), threshold, sqrt=use_sqrt
    )
    torch.testing.assert_close(repeat_factors(_repeats(threshold, use_sqrt), _tiles(*cells)), expected)


def test_without_a_threshold_each_class_is_evened_out_towards_the_commonest(caplog):
    tiles = _tiles(*[[0]] * 12, *[[0, 1]] * 3, [0, 0, 1, 2])
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        factors = repeat_factors(_repeats(), tiles)
    np.testing.assert_allclose(factors, [1] * 12 + [2] * 3 + [4])  # in 16, 4 and 1 of 16 tiles
    assert "threshold 1;" in caplog.text
    assert "common x 1.00, 77.3 -> 65.0 %" in caplog.text  # 17 -> 26 cells, of 22 -> 40
    assert "rare x 4.00, 4.5 -> 10.0 %" in caplog.text
    assert "nowhere x 1.00, 0.0 -> 0.0 %" in caplog.text


def test_crowds_do_not_make_a_class_common():
    tiles = _tiles(*[[0, -2, -3]] * 3, [1])
    np.testing.assert_allclose(repeat_factors(_repeats(), tiles), [1, 1, 1, 3**0.5])
    np.testing.assert_allclose(repeat_factors(_repeats(use_sqrt=False), tiles), [1, 1, 1, 3])


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_no_class_is_repeated_without_end(power):
    assert (repeat_threshold(0.001, 0.9, power) / 0.001) ** power == pytest.approx(4)
    assert repeat_threshold(0.5, 0.9, power) == 0.9


def test_a_dataset_of_crowds_is_not_repeated():
    np.testing.assert_array_equal(repeat_factors(_repeats(), _tiles([-1], [])), [1, 1])


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(CellSegError, match=r"REPEAT_THRESHOLD is -0.5; write"):
        check_values(_repeats(-0.5))


def test_a_sampler_that_cannot_be_resumed_is_refused(nuclei):
    with pytest.raises(CellSegError, match="RandomSubsetTrainingSampler; write TrainingSampler"):
        build_stream(_cfg("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"), 0)
