import copy

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import maybe_add_gradient_clipping

from cellseg_d2.config import get_cfg
from cellseg_d2.engine.optimizer import SHAPE_RATE, build_optimizer, build_unclipped
from cellseg_d2.modeling.build import build_on_cpu

SIZES = [0.1, 1.0, 30.0, 1000.0, 0.0]


def _model(without_gradient):
    """Layers whose gradients have very different norms, and perhaps one that has none."""
    torch.manual_seed(0)
    model = torch.nn.ModuleList(torch.nn.Linear(3, 4) for _ in range(len(SIZES) + without_gradient))
    for layer, size in zip(model, SIZES):
        for parameter in layer.parameters():
            parameter.grad = torch.randn_like(parameter) * size
    return model


def _detectron2s(cfg, model):
    """Detectron2's optimizer; it has no AdamW, but clips for any."""
    if cfg.CELLSEG.OPTIMIZER == "sgd":
        return DefaultTrainer.build_optimizer(cfg, model)
    return maybe_add_gradient_clipping(cfg, build_unclipped(cfg, model))


@pytest.mark.parametrize("kind", ["norm", "value"])
@pytest.mark.parametrize("order", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_detectron2s(name, enabled, order, kind):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.OPTIMIZER", name])
    options = cfg.SOLVER.CLIP_GRADIENTS
    options.ENABLED, options.NORM_TYPE, options.CLIP_TYPE = enabled, order, kind
    ours = _model(without_gradient=kind == "norm")  # torch's clipping by value wants all of them
    theirs = copy.deepcopy(ours)
    for one, other in zip(ours.parameters(), theirs.parameters()):
        other.grad = None if one.grad is None else one.grad.clone()
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    optimizers = build_optimizer(cfg, ours), _detectron2s(cfg, theirs)
    for optimizer in optimizers:
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(one, other)
    assert not all(torch.equal(*pair) for pair in zip(before, ours.parameters()))
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()


def test_a_step_without_any_gradient_changes_nothing():
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    build_optimizer(get_cfg("mask_rcnn_lite0_FPN"), model).step()
    assert torch.equal(model.weight, before)


def test_adamw_takes_the_settings_of_the_solver():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4))
    keys = ["CELLSEG.OPTIMIZER", "adamw", "SOLVER.BASE_LR", "0.003", "SOLVER.WEIGHT_DECAY", "0.2"]
    optimizer = build_optimizer(get_cfg("mask_rcnn_lite0_FPN", [*keys, "SOLVER.WEIGHT_DECAY_NORM", "0.1"]), model)
    assert isinstance(optimizer, torch.optim.AdamW)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert [decays[id(parameter)] for parameter in model.parameters()] == [0.2, 0.2, 0.1, 0.1]
    assert {group["lr"] for group in optimizer.param_groups} == {0.003}


@pytest.mark.parametrize(("name", "factor"), [("adamw", SHAPE_RATE), ("sgd", 1.0)])
def test_the_shape_classifier_learns_faster_with_adamw(name, factor):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.OPTIMIZER", name, "MODEL.ROI_HEADS.NUM_CLASSES", "2"])
    model = build_on_cpu(cfg)
    rates = {id(one): group["lr"] for group in build_optimizer(cfg, model).param_groups for one in group["params"]}
    of_shapes = {id(one) for one in model.roi_heads.mask_head.shape_classifier.parameters()}
    assert len(of_shapes) == 6
    for parameter in model.parameters():
        if parameter.requires_grad:
            expected = cfg.SOLVER.BASE_LR * (factor if id(parameter) in of_shapes else 1.0)
            assert rates[id(parameter)] == pytest.approx(expected)
