import pytest
import torch
from torch import nn

from cellseg_d2.modeling.group_norm import CellGroupNorm, use_fast_group_norm

BY_CHANNEL = torch.channels_last


def _norms():
    torch.manual_seed(0)
    theirs = nn.GroupNorm(4, 12)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    holder = nn.Sequential(theirs)
    use_fast_group_norm(holder)
    assert type(holder[0]) is CellGroupNorm
    assert holder[0].weight is theirs.weight and holder[0].bias is theirs.bias
    return theirs, holder[0]


@pytest.mark.parametrize("count", [3, 0])
def test_numbers_and_gradients_are_torchs(count):
    theirs, ours = (norm.double() for norm in _norms())
    x = (torch.randn(count, 12, 5, 7, dtype=torch.float64) * 3 + 40).contiguous(memory_format=BY_CHANNEL)
    x.requires_grad_()
    expected, found = theirs(x), ours(x)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=BY_CHANNEL) or not count
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    leaves = (x, theirs.weight, theirs.bias)
    wanted = torch.autograd.grad(expected, leaves, gradient)
    for one, other in zip(torch.autograd.grad(found, leaves, gradient), wanted):
        torch.testing.assert_close(one, other)


def test_bfloat16_is_computed_in_float32():
    theirs, ours = _norms()
    x = torch.randn(3, 12, 5, 7).contiguous(memory_format=BY_CHANNEL).bfloat16()
    found = ours(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, theirs(x.float()).bfloat16())


@pytest.mark.parametrize(("training", "order"), [(False, BY_CHANNEL), (True, torch.contiguous_format)])
def test_elsewhere_it_is_torchs_to_the_bit(training, order):
    theirs, ours = _norms()
    x = torch.randn(3, 12, 5, 7).contiguous(memory_format=order)
    assert torch.equal(ours.train(training)(x), theirs(x))


def test_norms_without_factors_stay():
    holder = nn.Sequential(nn.GroupNorm(4, 12, affine=False))
    use_fast_group_norm(holder)
    assert type(holder[0]) is nn.GroupNorm


def test_parameters_keep_their_names_and_their_order():
    holder = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.Conv2d(12, 3, 1))
    before = dict(holder.named_parameters())
    use_fast_group_norm(holder)
    assert list(holder.state_dict()) == list(before)
    assert all(parameter is before[name] for name, parameter in holder.named_parameters())
