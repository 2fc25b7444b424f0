import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.modeling.folding import BATCH_NORMS, fold_norms

CONFIGS = {
    "mask_rcnn_lite0_FPN": [],
    "mask_rcnn_lite0_FPN with BN": ["MODEL.EFFICIENTNET_LITE.NORM", "BN"],
    "mask_rcnn_R_50_FPN": [],
    "mask_rcnn_R_50_FPN with BN": ["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"],
    "mask_rcnn_R_50_FPN with deformable convolutions": [
        *("MODEL.BACKBONE.NAME", "build_cell_resnet_fpn_backbone", "MODEL.RESNETS.DEFORM_MODULATED", "True"),
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]"),
    ],
}


def build(name, options=()):
    cellseg_d2.setup()
    torch.manual_seed(0)
    return build_model(get_cfg(name, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2", *options])).eval()


def draw_statistics(model):
    """Statistics and factors of all layers of batch normalisation, as a training leaves them: all different."""
    for norm in (module for module in model.modules() if isinstance(module, BATCH_NORMS)):
        for tensor, low, high in ((norm.running_mean, -1, 1), (norm.bias, -1, 1), (norm.weight, 0.5, 1.5)):
            tensor.data.uniform_(low, high)
        norm.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_folded_backbone_has_no_batch_normalisation_and_gives_the_same_features(case):
    model = build(case.partition(" with ")[0], CONFIGS[case])
    draw_statistics(model)
    layers = sum(isinstance(module, BATCH_NORMS) for module in model.modules())
    groups = sum(isinstance(module, nn.GroupNorm) for module in model.modules())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model.backbone(image)
        assert fold_norms(model) == layers > 40
        after = model.backbone(image)
    assert not any(isinstance(module, BATCH_NORMS) for module in model.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == groups
    for name, feature in before.items():
        torch.testing.assert_close(after[name], feature, rtol=1e-4, atol=1e-5 * float(feature.abs().max()))


def test_folding_twice_changes_nothing():
    model = build("mask_rcnn_lite0_FPN")
    fold_norms(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert fold_norms(model) == 0
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_model_in_training_is_not_folded():
    model = build("mask_rcnn_lite0_FPN").train()
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_norms(model)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
