import logging

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.utils.events import EventStorage

from cellseg_d2.config import get_cfg
from cellseg_d2.engine.averaging import WeightAverage
from cellseg_d2.engine.hooks import BestCheckpoint, EarlyStopping, Evaluation
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.trainer import CellTrainer, build_loop, with_least_scores
from cellseg_d2.errors import CellSegError

LITE = "mask_rcnn_lite0_FPN"


def test_a_model_over_the_limit_is_refused_with_its_parts(nuclei):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "CELLSEG.MAX_PARAMETERS", "1000000"])
    with pytest.raises(
        CellSegError, match=r"5\.0 M parameters \(backbone \d.*roi_heads .*over the limit of 1\.0 M; CELLSEG"
    ):
        CellTrainer.build_model(cfg)


def test_weights_of_classes_are_told_by_name(nuclei, caplog):
    weights = ["CELLSEG.LOSS.CLASS_WEIGHTS", "[1,1,2,4,0.5]"]
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", *weights])
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        CellTrainer.build_model(cfg)
    assert "weights in the box loss: class1 1, class2 1, class3 2, class4 4, background 0.5" in caplog.messages


def test_a_picture_that_cannot_be_drawn_is_a_line_in_the_log(nuclei, tmp_path, caplog):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    trainer = CellTrainer(build_cfg(LITE, [*opts, "DATALOADER.NUM_WORKERS", "0"]))
    evaluator = CellTrainer.build_evaluator(trainer.cfg, trainer.cfg.DATASETS.TEST[0])
    trainer.storage = EventStorage()
    trainer._put_overlays([evaluator])
    assert len(trainer.storage._vis_data) == 2
    evaluator.image_root = tmp_path / "gone"
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        trainer._put_overlays([evaluator])
    assert "no picture of this evaluation: " in caplog.text


def test_a_checkpoint_gets_the_least_scores_of_the_best_f1(nuclei, caplog):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu"])
    evaluator = CellTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
    cells = [cell for cell in evaluator.truth["annotations"] if not cell["iscrowd"]]
    renamed = {1: 2, 2: 3, 3: 4, 4: 1}  # a guess of another class for each cell, of which none is right
    wrong = [{**cell, "category_id": renamed[cell["category_id"]], "score": 0.2} for cell in cells]
    evaluator.results = [*({**cell, "score": 0.6} for cell in cells), *wrong]
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        found = with_least_scores(cfg, [evaluator])
    assert found.CELLSEG.INFERENCE.MIN_SCORES == pytest.approx([0.4, 0.4, 0.4, 0.4])
    assert cfg.CELLSEG.INFERENCE.MIN_SCORES == []
    assert "class1 0.40, class2 0.40, class3 0.40, class4 0.40" in caplog.text
    evaluator.truth = {"images": evaluator.truth["images"], "categories": evaluator.truth["categories"]}
    assert with_least_scores(cfg, [evaluator]) is with_least_scores(cfg, []) is cfg


def test_what_a_checkpoint_keeps_is_known_before_it_is_written(nuclei, tmp_path):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "CELLSEG.EMA_DECAY", "0.9"]
    trainer = CellTrainer(build_cfg(LITE, [*opts, "DATALOADER.NUM_WORKERS", "0", "CELLSEG.EARLY_STOPPING", "3"]))
    kinds = [type(hook) for hook in trainer._hooks]
    wanted = [
        WeightAverage,
        Evaluation,
        BestCheckpoint,
        EarlyStopping,
        hooks.PeriodicCheckpointer,
        hooks.PeriodicWriter,
    ]
    assert [kind for kind in kinds if kind in wanted] == wanted
    assert hooks.LRScheduler in kinds
    assert hooks.EvalHook not in kinds


@pytest.mark.parametrize(("dtype", "scaled"), [("float16", True), ("bfloat16", False)])
def test_mixed_precision_scales_its_losses_where_it_must(dtype, scaled, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # the scaler disables itself where there is none
    cfg = get_cfg(LITE, ["SOLVER.AMP.ENABLED", "True", "CELLSEG.AMP_DTYPE", dtype])
    model = torch.nn.Linear(1, 1)
    loop = build_loop(cfg, model, [None], torch.optim.SGD(model.parameters(), 0.1))
    assert isinstance(loop, AMPTrainer)
    assert loop.precision is getattr(torch, dtype)
    assert loop.grad_scaler.is_enabled() == scaled


def test_a_step_in_bfloat16_on_a_cpu_is_near_that_in_full_precision():
    losses = []
    for overrides in ([], ["SOLVER.AMP.ENABLED", "True", "CELLSEG.AMP_DTYPE", "bfloat16"]):
        torch.manual_seed(0)
        model = Squares()
        cfg = get_cfg(LITE, ["MODEL.DEVICE", "cpu", *overrides])
        loop = build_loop(
            cfg, model, [torch.linspace(0, 1, 64).reshape(8, 8)], torch.optim.SGD(model.parameters(), 0.1)
        )
        before = model.layer.weight.detach().clone()
        with EventStorage():
            loop.run_step()
        assert not torch.equal(before, model.layer.weight)
        assert model.layer.weight.dtype is torch.float32
        losses.append((model.seen, model.last))
    assert [seen for seen, _ in losses] == [torch.float32, torch.bfloat16]
    assert losses[1][1] == pytest.approx(losses[0][1], rel=0.02)


class Squares(torch.nn.Module):
    """A loss over one linear layer, which notes the precision that it was computed in."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, data):
        output = self.layer(data)
        self.seen, loss = output.dtype, output.float().square().mean()
        self.last = loss.item()
        return {"loss": loss}


def test_without_mixed_precision_it_is_detectron2s_plain_loop():
    model = torch.nn.Linear(1, 1)
    loop = build_loop(get_cfg(LITE), model, [None], torch.optim.SGD(model.parameters(), 0.1))
    assert type(loop) is SimpleTrainer


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], [0.001, 0.0505, 0.1, 0.1, 0.1]),
        (["SOLVER.STEPS", "(40, 80)"], [0.001, 0.0505, 0.1, 0.01, 0.001]),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], [0.001, 0.0493, 0.0794, 0.05, 0.0]),
    ],
    ids=["constant", "in steps", "cosine"],
)
def test_the_rate_follows_the_schedule_after_the_warm_up(keys, expected):
    solver = [
        "SOLVER.BASE_LR",
        "0.1",
        "SOLVER.MAX_ITER",
        "100",
        "SOLVER.WARMUP_ITERS",
        "10",
        "SOLVER.WARMUP_FACTOR",
        "0.01",
    ]
    cfg = get_cfg(LITE, [*solver, *keys])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = CellTrainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates.append(optimizer.param_groups[0]["lr"])
    assert [rates[at] for at in (0, 5, 30, 50, 100)] == pytest.approx(expected, rel=0.01, abs=1e-6)
