"""Deformable convolutions without their operator compute the same."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d

from cellseg_d2.deployment.deformable import SampledConv, without_deformable_operators
from cellseg_d2.modeling.deformable import DeformableConv


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("deformable_groups", [1, 2])
@pytest.mark.parametrize("is_modulated", [False, True])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_the_same_values(groups, deformable_groups, is_modulated, stride, dilation):
    torch.manual_seed(0)
    options = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": groups, "bias": False}
    conv = DeformableConv(Conv2d(8, 12, 3, norm=FrozenBatchNorm2d(12), activation=torch.relu, **options))
    x = torch.randn(1, 8, 13, 17)
    rows, columns = -(-13 // stride), -(-17 // stride)
    offset = 3 * torch.randn(1, 18 * deformable_groups, rows, columns)  # many points lie outside
    mask = torch.rand(1, 9 * deformable_groups, rows, columns) if is_modulated else None
    torch.testing.assert_close(SampledConv(conv)(x, offset, mask), conv(x, offset, mask), rtol=1e-4, atol=1e-5)


def test_every_operator_of_a_model_is_replaced_once():
    model = torch.nn.Sequential(torch.nn.Sequential(DeformableConv(Conv2d(2, 2, 3))), torch.nn.ReLU())
    for _ in range(2):
        without_deformable_operators(model)
        assert isinstance(model[0][0], SampledConv) and isinstance(model[0][0].conv, DeformableConv)
