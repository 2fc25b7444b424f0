"""In training EfficientNet-Lite0 computes what its package computes, which it leaves as it is in evaluation."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d

from cellseg_d2.modeling.efficientnet_lite import EfficientNetLite0
from cellseg_d2.modeling.folding import BATCH_NORMS

STAGES = ["res2", "res3", "res4", "res5"]


@pytest.fixture
def backbone():
    """With frozen statistics that differ from layer to layer, as a checkpoint's do."""
    torch.manual_seed(0)
    network = EfficientNetLite0(STAGES, "FrozenBN")
    for norm in (module for module in network.modules() if isinstance(module, BATCH_NORMS)):
        for tensor, low, high in ((norm.running_mean, -0.2, 0.2), (norm.bias, -0.2, 0.2), (norm.weight, 0.5, 1.5)):
            tensor.uniform_(low, high)
        norm.running_var.uniform_(0.5, 2)
    return network


def _features_and_gradients(network, image, training):
    network.train(training).zero_grad()
    features = network(image)
    sum(feature.float().square().mean() for feature in features.values()).backward()
    return features, {name: parameter.grad for name, parameter in network.named_parameters()}


def test_training_computes_what_evaluation_does(backbone):
    backbone.double()
    image = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    features, gradients = _features_and_gradients(backbone, image, training=True)
    expected, expected_gradients = _features_and_gradients(backbone, image, training=False)
    for name in STAGES:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-9, atol=1e-12)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_float32_differs_by_its_rounding_only(backbone):
    image = torch.randn(2, 3, 96, 64)
    features, _ = _features_and_gradients(backbone, image, training=True)
    expected, _ = _features_and_gradients(backbone, image, training=False)
    for name in STAGES:
        assert features[name].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(features[name], expected[name], rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_as_exact_as_it_was(backbone):
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = backbone.eval()(image)
        with torch.autocast("cpu", torch.bfloat16):
            found, before = backbone.train()(image), backbone.eval()(image)
    for name in STAGES:
        error, error_before = ((features[name] - expected[name]).norm() for features in (found, before))
        assert found[name].dtype == torch.bfloat16
        assert error <= 1.2 * error_before


def test_trained_statistics_are_those_of_the_batch():
    torch.manual_seed(0)
    network = EfficientNetLite0(STAGES, "BN", freeze_at=2)
    image = torch.randn(2, 3, 64, 64)
    network.train()(image)["res5"].sum().backward()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert all(norm.num_batches_tracked == 1 and norm.weight.grad is not None for norm in norms)
    frozen = [module for module in network.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert frozen
    assert all(parameter.grad is None for parameter in network._blocks[0].parameters())


def test_frozen_stages_keep_no_graph(backbone):
    backbone._freeze(3)
    features = backbone.train()(torch.randn(1, 3, 64, 64))
    assert [features[name].requires_grad for name in STAGES] == [False, False, True, True]
