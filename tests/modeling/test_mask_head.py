"""The mask head's losses see the logits of the true classes only, and so it computes no others where that is faster."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances

from cellseg_d2.modeling.losses import own_class_logits
from cellseg_d2.modeling.mask_head import CellMaskHead


def _instances(classes):
    instances = Instances((64, 64))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("cells", [[0, 2, 1, 1], []], ids=["cells", "no cell"])
def test_logits_of_the_true_classes_are_those_of_all_layers(norm, classes, cells):
    torch.manual_seed(0)
    head = CellMaskHead(ShapeSpec(32, 14, 14), num_classes=classes, conv_dims=[32] * 3, conv_norm=norm).double()
    torch.nn.init.normal_(head.predictor.weight)
    torch.nn.init.normal_(head.predictor.bias)
    instances = [_instances(cells[:1]), _instances(cells[1:])]
    x = torch.randn(len(cells), 32, 14, 14, dtype=torch.float64)
    expected = own_class_logits(head.layers(x), instances)
    found = head.own_class_layers(x, instances)
    assert found.shape == (len(cells), 1, 28, 28)
    torch.testing.assert_close(found[:, 0], expected)
    gradient = torch.randn_like(expected)
    parameters = list(head.parameters())
    wanted = torch.autograd.grad(expected, parameters, gradient)
    for one, other in zip(torch.autograd.grad(found[:, 0], parameters, gradient), wanted):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
