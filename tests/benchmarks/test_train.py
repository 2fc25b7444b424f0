"""Both sides of the training benchmark train on the same cells; how fast they are no test says."""

from dataclasses import replace

import pytest
import torch

from benchmarks import mapper, train, train_sides
from benchmarks.train_sides import QUICK, SIDES, OurTraining, TorchvisionTraining, draw_samples

SMALL = replace(QUICK, counts=(8,))


@pytest.fixture(scope="module")
def trainings():
    return [side(SMALL) for side in SIDES]


def test_a_full_tile_holds_the_most_cells_that_are_measured():
    settings = replace(train_sides.FULL["cpu"], batch=1)
    assert [len(draw_samples(settings, count)[0]["instances"]) for count in settings.counts] == list(settings.counts)
    assert settings.positives <= settings.counts[0]


def test_both_sides_get_the_same_cells():
    samples = draw_samples(SMALL, 8)
    batch = TorchvisionTraining.collate(samples)
    assert OurTraining.collate(samples) is samples
    assert not torch.equal(samples[0]["image"], samples[1]["image"])
    for sample, (image, target) in zip(samples, batch):
        truth = sample["instances"]
        assert torch.equal((image * 255).round().byte(), sample["image"])
        assert torch.equal(target["boxes"], truth.gt_boxes.tensor)
        assert torch.equal(target["labels"], truth.gt_classes + 1)
        assert (target["masks"].shape, target["masks"].dtype) == ((8, 64, 64), torch.uint8)
        assert torch.equal(target["masks"].sum(dim=(1, 2)), truth.gt_masks.area())


def test_both_sides_train_the_same_network(trainings):
    ours, theirs = (training.model for training in trainings)
    counts = [sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert counts[0] == counts[1]
    anchors = [
        torch.cat([cell.float() for cell in model.cell_anchors])
        for model in (ours.proposal_generator.anchor_generator, theirs.rpn.anchor_generator)
    ]
    assert torch.allclose(*anchors, atol=0.51)  # torchvision rounds them
    assert theirs.rpn.pre_nms_top_n() == ours.proposal_generator.pre_nms_topk[True]
    assert theirs.rpn.post_nms_top_n() == ours.proposal_generator.post_nms_topk[True]
    assert theirs.rpn.fg_bg_sampler.batch_size_per_image == ours.proposal_generator.batch_size_per_image
    assert theirs.roi_heads.fg_bg_sampler.batch_size_per_image == ours.roi_heads.batch_size_per_image
    assert theirs.roi_heads.fg_bg_sampler.positive_fraction == ours.roi_heads.positive_fraction


@pytest.mark.parametrize("place", range(len(SIDES)))
def test_a_step_changes_the_weights_and_counts_the_positives(trainings, place):
    training = trainings[place]
    batch = training.collate(draw_samples(SMALL, 8))
    before = [parameter.detach().clone() for parameter in training.model.roi_heads.mask_head.parameters()]
    training.step(batch)
    after = list(training.model.roi_heads.mask_head.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after))
    assert training.positives == 2 * 8  # each cell's own box is a proposal
    training.limit_positives(3 / SMALL.boxes)
    training.step(batch)
    assert training.positives == 2 * 3
    training.limit_positives(0.25)


def test_streams_are_timed_for_each_side_and_number_of_cells(trainings, monkeypatch):
    monkeypatch.setattr(mapper, "TILE", SMALL.side)
    table = train.compare_streams(trainings, SMALL, torch.float32, batches=1, workers=1)
    assert [row[0] for row in table.rows] == [f"{side.name}, {count}" for count in SMALL.counts for side in SIDES]
    assert all(float(row[1]) > 0 for row in table.rows)
    assert table.rows[0][2] == "1.00"
