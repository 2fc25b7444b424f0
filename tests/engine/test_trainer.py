import logging
import os
import signal
from unittest import mock

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from drawing import write_drawn_dataset

import cellseg_d2
from cellseg_d2.config import get_cfg
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.engine.averaging import WeightAverage
from cellseg_d2.engine.hooks import BestCheckpoint, EarlyStopping, Evaluation
from cellseg_d2.engine.loop import build_loop
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.errors import CellSegError, Stopped

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


def test_a_picture_that_cannot_be_drawn_is_a_line_in_the_log(nuclei, tmp_path, caplog, monkeypatch):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    trainer = CellTrainer(build_cfg(LITE, [*opts, "DATALOADER.NUM_WORKERS", "0", "CELLSEG.VALIDATION_LOSS", "False"]))
    evaluator = CellTrainer.build_evaluator(trainer.cfg, trainer.cfg.DATASETS.TEST[0])
    monkeypatch.setattr(trainer, "build_evaluator", lambda cfg, name: evaluator)
    monkeypatch.setattr(trainer, "test", lambda cfg, model, evaluators: {})  # pictures of the ground truth are enough
    trainer.storage = EventStorage()
    with mock.patch.object(trainer.storage, "put_image", wraps=trainer.storage.put_image) as put_image:
        trainer.evaluate()
    assert put_image.call_count == 2
    evaluator.image_root = tmp_path / "gone"
    with caplog.at_level(logging.WARNING, "cellseg_d2"):
        trainer.evaluate()
    assert "no picture of this evaluation: " in caplog.text


class _Trained(CellTrainer):
    """Trains on drawn tiles, and does something after an iteration's update or within an evaluation."""

    def __init__(self, cfg, *, after=lambda trainer: None, evaluating=lambda trainer: None):
        seed_all_rng(cfg.SEED)
        super().__init__(cfg)
        self.after, self.evaluating = after, evaluating
        self.scores = {1: 11.0, 3: 13.0}

    def run_step(self):
        super().run_step()
        self.after(self)

    def _evaluate(self):
        self.evaluating(self)
        return {"segm": {"AP50": self.scores[self.iter]}}


@pytest.fixture
def drawn_cfg(drawn, tmp_path):
    def build(*opts):
        keys = ["CELLSEG.DATASET", "drawn_runs", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run")]
        keys += ["SEED", "1", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1", "MODEL.WEIGHTS", ""]
        keys += ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "2"]
        (tmp_path / "run").mkdir(exist_ok=True)
        return build_cfg(LITE, [*keys, *opts])

    return build


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn_runs")
    write_drawn_dataset(root / "input", images=4)
    convert(root / "input", root / "datasets" / "drawn_runs", ConvertOptions())
    cellseg_d2.setup(root / "datasets")


def _spoil(at, factor):
    def after(trainer):
        if trainer.iter == at:
            with torch.no_grad():
                for weight in trainer.model.parameters():
                    weight.mul_(factor)

    return after


def _files(folder):
    return {path.name for path in folder.iterdir() if path.name.startswith(("model", "last"))}


@pytest.mark.parametrize(
    ("at", "factor", "good"),
    [(2, float("nan"), 1), (2, float("inf"), 1), (1, 1e15, 0)],
    ids=["NaN", "infinite", "huge"],
)
def test_what_has_diverged_is_not_kept(at, factor, good, drawn_cfg, tmp_path):
    """Huge weights are finite when they are saved, and find nothing; the loss of the next iteration tells."""
    trainer = _Trained(drawn_cfg(), after=_spoil(at, factor))
    trainer.scores = {1: 11.0 if good else 0.0}
    with pytest.raises(CellSegError) as caught:
        trainer.train()
    last = tmp_path / "run" / f"model_{good:07d}.pth"
    assert f"the last good checkpoint is {last}" in str(caught.value)
    assert "training has diverged at iteration " in str(caught.value)
    best = {"model_best.pth"} if good else set()
    kept = {f"model_{iteration:07d}.pth" for iteration in range(good + 1)}
    assert _files(tmp_path / "run") == {"last_checkpoint", *best, *kept}
    assert (tmp_path / "run" / "last_checkpoint").read_text() == last.name
    content = torch.load(last, weights_only=True)
    assert content["iteration"] == good
    assert all(torch.isfinite(weight).all() and weight.abs().max() < 1e6 for weight in content["model"].values())


def test_a_loss_that_is_nan_for_once_costs_no_best_checkpoint(drawn_cfg, tmp_path):
    def spoil_next(trainer):
        if trainer.iter == 1:
            forward = trainer.model.forward
            trainer.model.forward = lambda data: {name: loss * torch.nan for name, loss in forward(data).items()}

    with pytest.raises(CellSegError, match=r"diverged at iteration 2 .* checkpoint is .*model_0000001\.pth"):
        _Trained(drawn_cfg(), after=spoil_next).train()
    files = {"last_checkpoint", "model_best.pth", "model_0000000.pth", "model_0000001.pth"}
    assert _files(tmp_path / "run") == files


def _kill(number, at):
    def kill(trainer):
        if trainer.iter == at:
            os.kill(os.getpid(), number)

    return kill


def _weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("where", ["after", "evaluating"])
def test_stopped_and_resumed_all_is_as_in_an_unbroken_run(where, drawn_cfg, tmp_path):
    _Trained(drawn_cfg("OUTPUT_DIR", str(tmp_path))).train()
    for at, evaluated in ((1, "evaluation"), (3, "the last evaluation")):
        cfg = drawn_cfg("SOLVER.CHECKPOINT_PERIOD", "100", "OUTPUT_DIR", str(tmp_path / "run" / evaluated))
        (tmp_path / "run" / evaluated).mkdir()
        trainer = _Trained(cfg, **{where: _kill(signal.SIGTERM, at)})
        with pytest.raises(Stopped) as caught:
            trainer.train()
        assert caught.value.exit_code == 143
        best = {"model_best.pth"} if at == 3 else set()
        assert _files(tmp_path / "run" / evaluated) == {"last_checkpoint", f"model_{at:07d}.pth", *best}
        again = _Trained(cfg)
        again.resume_or_load(resume=True)
        again.train()
        ours, unbroken = _weights(tmp_path / "run" / evaluated), _weights(tmp_path)
        assert ours["iteration"] == unbroken["iteration"] == 3
        assert all(torch.equal(ours["model"][name], value) for name, value in unbroken["model"].items())
        best = [state["trainer"]["hooks"]["BestCheckpoint"] for state in (ours, unbroken)]
        assert best[0] == best[1] == {"best": {"segm/AP50": {"value": 13.0, "iteration": 3}}}


def _worker(trainer):
    """The process that loads tiles."""
    return trainer._trainer._data_loader_iter_obj._workers[0].pid


def test_a_signal_to_the_loaders_processes_too_keeps_what_was_trained(drawn_cfg, tmp_path, monkeypatch):
    """As of a process group that is ended: the tiles stop coming, and the iteration cannot begin."""
    trainer = _Trained(
        drawn_cfg("SOLVER.CHECKPOINT_PERIOD", "100", "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "1")
    )
    build = trainer.build_train_loader

    def batches(*arguments):
        iterator = iter(build(*arguments))
        yield next(iterator)
        yield next(iterator)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(iterator._workers[0].pid, signal.SIGTERM)
        for _ in iterator:  # what the process had loaded before
            pass

    monkeypatch.setattr(trainer, "build_train_loader", batches)
    with pytest.raises(Stopped) as caught:
        trainer.train()
    assert caught.value.exit_code == 143
    assert _files(tmp_path / "run") == {"last_checkpoint", "model_0000001.pth"}


def test_a_process_that_loads_tiles_and_is_killed_is_one_line(drawn_cfg):
    cfg = drawn_cfg("DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "50")
    with pytest.raises(CellSegError, match=r"a process that loads tiles has ended .*lower DATALOADER.NUM_WORKERS"):
        _Trained(cfg, after=lambda trainer: os.kill(_worker(trainer), signal.SIGKILL)).train()


def test_what_a_checkpoint_keeps_is_known_before_it_is_written(nuclei, tmp_path):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "CELLSEG.EMA_DECAY", "0.9"]
    trainer = CellTrainer(build_cfg(LITE, [*opts, "DATALOADER.NUM_WORKERS", "0", "CELLSEG.EARLY_STOPPING", "3"]))
    kinds = [type(hook) for hook in trainer.build_hooks()]
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
    for enabled in ("False", "True"):
        torch.manual_seed(0)
        model = Squares()
        precision = ["SOLVER.AMP.ENABLED", enabled, "CELLSEG.AMP_DTYPE", "bfloat16"]
        cfg = get_cfg(LITE, ["MODEL.DEVICE", "cpu", *precision])
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
    cfg = get_cfg(LITE, ["SOLVER.AMP.ENABLED", "False"])
    loop = build_loop(cfg, model, [None], torch.optim.SGD(model.parameters(), 0.1))
    assert type(loop) is SimpleTrainer


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"], [0.001, 0.0505, 0.1, 0.1, 0.1]),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "(40, 80)"],
            [0.001, 0.0505, 0.1, 0.01, 0.001],
        ),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], [0.001, 0.0493, 0.0794, 0.05, 0.0]),
    ],
    ids=["constant", "in steps", "cosine"],
)
def test_the_rate_follows_the_schedule_after_the_warm_up(keys, expected):
    rates = ["SOLVER.BASE_LR", "0.1", "SOLVER.WARMUP_FACTOR", "0.01"]
    lengths = ["SOLVER.MAX_ITER", "100", "SOLVER.WARMUP_ITERS", "10"]
    cfg = get_cfg(LITE, [*rates, *lengths, *keys])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = CellTrainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates.append(optimizer.param_groups[0]["lr"])
    assert [rates[at] for at in (0, 5, 30, 50, 100)] == pytest.approx(expected, rel=0.01, abs=1e-6)
