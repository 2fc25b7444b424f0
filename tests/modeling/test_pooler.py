"""Pooling by weighted sums is RoIAlign, and so is its gradient."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from cellseg_d2.modeling.pooler import CellPooler

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
ODD = [
    [10.0, 10.0, 10.0, 30.0],  # without a width
    [-90.0, -40.0, 20.0, 300.0],  # beyond the image on three sides
    [-60.0, -60.0, -30.0, -30.0],  # outside it
    [3.0, 4.0, 3.5, 4.25],  # smaller than a pixel
    [0.0, 0.0, 200.0, 6.0],  # long
    [0.0, 0.0, 160.0, 96.0],  # all of it
]


def _features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 8, int(96 * scale), int(160 * scale)) for scale in SCALES]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def _boxes(count, size):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90.0])
    sides = 2 + torch.rand(count, 2, generator=generator) * size
    return Boxes(torch.cat([corners, corners + sides], dim=1))


def _pools(side, scales=SCALES, kind="ROIAlignV2", sampling=0):
    theirs = ROIPooler(side, scales, sampling, kind)
    return theirs, CellPooler(theirs)


def _assert_same(theirs, ours, features, boxes, tolerance):
    expected, found = theirs(features, boxes), ours(features, boxes)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(expected)
    wanted = torch.autograd.grad(expected, features, gradient)
    for one, other in zip(torch.autograd.grad(found, features, gradient), wanted):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("side", [7, 14, (5, 9)])
@pytest.mark.parametrize("size", [12.0, 150.0])
def test_features_and_gradients_are_those_of_roi_align(side, size):
    boxes = [_boxes(30, size), Boxes(torch.cat([torch.tensor(ODD), _boxes(5, size).tensor]))]
    theirs, ours = _pools(side) if isinstance(side, int) else _pools(side, SCALES[:1])
    features = _features(torch.float32)[: len(theirs.level_poolers)]
    _assert_same(theirs, ours, features, boxes, tolerance=5e-6)


@pytest.mark.parametrize("boxes", [[_boxes(9, 30.0), Boxes(torch.zeros(0, 4))], [Boxes(torch.zeros(0, 4))] * 2])
def test_images_without_boxes_are_passed_over(boxes):
    _assert_same(*_pools(7), _features(torch.float32), boxes, tolerance=5e-6)


@pytest.mark.parametrize("options", [{"kind": "ROIAlign"}, {"sampling": 2}, {"kind": "ROIPool"}])
def test_other_kinds_of_pooling_stay_detectron2s(options):
    theirs, ours = _pools(7, **options)
    features, boxes = _features(torch.float32), [_boxes(9, 30.0), _boxes(4, 90.0)]
    assert torch.equal(ours(features, boxes), theirs(features, boxes))


def test_prediction_is_detectron2s_to_the_bit():
    theirs, ours = _pools(7)
    features, boxes = _features(torch.float32), [_boxes(9, 30.0), _boxes(4, 90.0)]
    assert torch.equal(ours.eval()(features, boxes), theirs(features, boxes))
    assert not torch.equal(ours.train()(features, boxes), theirs(features, boxes))  # the other way was taken


def test_the_gradient_stays_exact_within_automatic_mixed_precision():
    _, ours = _pools(7)
    features, boxes = _features(torch.float32), [_boxes(30, 30.0), _boxes(4, 90.0)]
    expected = torch.autograd.grad(ours(features, boxes).sum(), features)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(ours(features, boxes).sum(), features)
    assert all(torch.equal(*pair) for pair in zip(found, expected))
