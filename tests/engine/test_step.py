"""A training step on a CPU takes shorter ways than Detectron2 and the backbone's package, to the same losses."""

import itertools

import pytest
from detectron2.engine import DefaultTrainer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from benchmarks.train_profile import long_ways
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.weights.checkpoint import CellCheckpointer

STEPS = 3


pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture
def cfg(nuclei):
    keys = {"CELLSEG.DATASET": "nuclei", "MODEL.DEVICE": "cpu", "SOLVER.AMP.ENABLED": "False"}
    keys |= {"DATALOADER.NUM_WORKERS": "0", "SOLVER.IMS_PER_BATCH": "2", "INPUT.CROP.SIZE": "[64, 96]"}
    # All proposals are used: rounding swaps those of nearly equal scores, and then others would be sampled.
    keys |= {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "10000", "MODEL.RPN.POST_NMS_TOPK_TRAIN": "10000"}
    keys |= {"MODEL.RPN.PRE_NMS_TOPK_TRAIN": "10000", "MODEL.ROI_HEADS.POSITIVE_FRACTION": "1.0"}
    keys |= {
        "SOLVER.MAX_ITER": "8",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": "False",
        "CELLSEG.SHAPE_CLASSIFIER": "False",
        "CELLSEG.OPTIMIZER": "sgd",
        "SOLVER.WEIGHT_DECAY": "0.0001",
    }
    return build_cfg("finetune_nuclei", [text for pair in keys.items() for text in pair])


def _losses(cfg, trainer):
    """The losses of a few steps from the published weights, and the sum of the weights' squares after them."""
    seed_all_rng(0)
    model = CellTrainer.build_model(cfg)
    CellCheckpointer(model, cfg, strict=False).load(cfg.MODEL.WEIGHTS)
    optimizer = trainer.build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.005
    found = []
    for batch in itertools.islice(CellTrainer.build_train_loader(cfg, seed=0), STEPS):
        with EventStorage():
            losses = model.train()(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({name: loss.item() for name, loss in losses.items()})
    return found, sum(float(weight.detach().double().square().sum()) for weight in model.parameters())


def test_losses_of_several_steps_are_those_of_the_long_ways(cfg):
    found, weights = _losses(cfg, CellTrainer)
    with long_ways():
        expected, expected_weights = _losses(cfg, DefaultTrainer)
    assert len(found) == STEPS
    assert found[0] != found[-1]
    for step, wanted in zip(found, expected):
        assert step == pytest.approx(wanted, abs=1e-5)
    assert weights == pytest.approx(expected_weights, rel=1e-6)
