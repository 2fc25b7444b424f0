import logging

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from torch import nn
from tqdm import tqdm

from cellseg_d2.engine.hooks import BestCheckpoint, EarlyStopping, Evaluation, ProgressBar


class _Line(nn.Module):
    """The smallest model that Detectron2's trainer takes."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, data):
        return {"loss": (self.slope - data).square().sum()}


def _trainer():
    model = _Line()
    return SimpleTrainer(model, [torch.ones(1)] * 100, torch.optim.SGD(model.parameters(), 0.1))


def _train(scores, start=0, load=None):
    """Trains, 'evaluating' to ``scores`` every second iteration; the hook, and the iterations it saved at."""
    trainer, saved = _trainer(), []
    best = BestCheckpoint(2, {"segm/AP50": lambda iteration, value: saved.append(iteration)})
    if load is not None:
        best.load_state_dict(load)
    values = iter(scores)
    trainer.register_hooks([Evaluation(2, lambda: {"segm": {"AP50": next(values)}}), best])
    trainer.train(start, start + 2 * len(scores))
    return best, saved


@pytest.mark.parametrize(
    ("scores", "value", "saved"),
    [
        ([1.0, 3.0, 2.0], 3.0, [1, 3]),
        ([1.0, 2.0, 3.0], 3.0, [1, 3, 5]),
        ([2.0, 2.0], 2.0, [1]),
        ([float("nan"), 1.0], 1.0, [3]),
        ([float("nan")], None, []),
    ],
    ids=["in the middle", "at the end", "a tie keeps the first", "NaN is not better", "never"],
)
def test_the_best_is_saved(scores, value, saved):
    best, saved_at = _train(scores)
    assert saved_at == saved
    assert best.state_dict() == {"best": {"segm/AP50": {"value": value, "iteration": saved[-1] if saved else None}}}


def test_the_best_value_survives_a_resume():
    first, _ = _train([5.0])
    second, saved = _train([4.0, 4.5], start=2, load=first.state_dict())
    assert second.best["segm/AP50"] == {"value": 5.0, "iteration": 1}
    assert saved == []


def test_a_resumed_run_that_looks_at_another_metric_begins_afresh():
    best, saved = _train([1.0], load={"best": {"bbox/AP": {"value": 50.0, "iteration": 7}}})
    assert list(best.best) == ["segm/AP50"]
    assert saved == [1]


def test_a_metric_that_evaluation_does_not_give_is_said(caplog):
    trainer, saved = _trainer(), []
    trainer.register_hooks([BestCheckpoint(0, {"segm/AP50": lambda *at: saved.append(at)})])
    with caplog.at_level("WARNING", "cellseg_d2"):
        trainer.train(0, 2)
    assert "segm/AP50" in caplog.text
    assert not saved


def test_a_metric_of_an_earlier_evaluation_is_not_taken_for_the_latest():
    trainer, saved = _trainer(), []
    results = iter([{"segm": {"AP50": 1.0}}, {}])
    best = BestCheckpoint(1, {"segm/AP50": lambda iteration, value: saved.append((iteration, value))})
    trainer.register_hooks([Evaluation(1, lambda: next(results)), best])
    trainer.train(0, 2)
    assert saved == [(0, 1.0)]


def _stops_at(scores, patience, load=None):
    """The first iteration after which the hook asks to stop; None where it never does. And the hook."""
    trainer = _trainer()
    trainer.stopping, asked = False, []
    early = EarlyStopping(1, "segm/AP50", patience)
    if load is not None:
        early.load_state_dict(load)
    values = iter(scores)

    class Watch(hooks.HookBase):
        def after_step(self):
            if self.trainer.stopping and not asked:
                asked.append(self.trainer.iter)

    trainer.register_hooks([Evaluation(1, lambda: {"segm": {"AP50": next(values)}}), early, Watch()])
    trainer.train(0, len(scores))
    return asked[0] if asked else None, early


@pytest.mark.parametrize(
    ("scores", "patience", "at"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1, None),
        ([2.0, 1.0, 1.5, 0.0, 0.0], 2, 2),
        ([2.0, 1.0, 3.0, 2.0, 2.5, 0.0], 2, 4),
        ([1.0, 1.0, 1.0, 0.0], 2, 2),
        ([float("nan"), float("nan"), 1.0, 0.0], 2, 1),
    ],
    ids=["always better", "twice worse", "a gain starts the count anew", "a tie is no gain", "NaN is no gain"],
)
def test_training_stops_without_gain(scores, patience, at):
    assert _stops_at(scores, patience)[0] == at


def test_the_count_survives_a_resume():
    _, first = _stops_at([2.0, 1.0], 2)
    assert first.state_dict() == {"metric": "segm/AP50", "best_value": 2.0, "without_gain": 1}
    assert _stops_at([1.5, 9.0], 2, first.state_dict())[0] == 0


def test_the_count_of_another_metric_is_not_taken_up():
    early = EarlyStopping(1, "bbox/AP", 2)
    early.load_state_dict({"metric": "segm/AP50", "best_value": 2.0, "without_gain": 2})
    assert early.state_dict() == {"metric": "bbox/AP", "best_value": None, "without_gain": 0}


def test_a_metric_that_is_not_there_stops_nothing(caplog):
    trainer = _trainer()
    trainer.stopping = False
    trainer.register_hooks([Evaluation(1, lambda: {"segm": {"AP": 1.0}}), EarlyStopping(1, "segm/AP50", 1)])
    with caplog.at_level("WARNING", "cellseg_d2"):
        trainer.train(0, 4)
    assert not trainer.stopping
    assert "no segm/AP50" in caplog.text


def test_the_last_evaluation_is_in_the_last_checkpoint(tmp_path):
    trainer, states = _trainer(), []
    best = BestCheckpoint(2, {"segm/AP50": lambda iteration, value: None})
    values = iter([1.0, 9.0])

    class Checkpoint(hooks.HookBase):
        def after_step(self):
            states.append(best.state_dict()["best"]["segm/AP50"]["value"])

    trainer.register_hooks([Evaluation(2, lambda: {"segm": {"AP50": next(values)}}), best, Checkpoint()])
    trainer.train(0, 3)
    assert states == [None, 1.0, 9.0]


def test_a_run_that_had_been_stopped_stops_at_once():
    trainer = _trainer()
    trainer.stopping = False
    early = EarlyStopping(1, "segm/AP50", 2)
    early.load_state_dict({"metric": "segm/AP50", "best_value": 2.0, "without_gain": 2})
    trainer.register_hooks([early])
    trainer.train(0, 1)
    assert trainer.stopping


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar_with_the_time_left_and_other_places_nothing(terminal, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    trainer = _trainer()
    logging.getLogger("cellseg_d2").addHandler(logging.StreamHandler())

    class Log(hooks.HookBase):
        def after_step(self):
            self.trainer.storage.put_scalar("total_loss", 1.5)
            logging.getLogger("cellseg_d2").warning("a line")

    trainer.register_hooks([Log(), ProgressBar()])
    trainer.train(2, 5)
    err = capsys.readouterr().err
    assert ("training" in err and "5/5" in err and "loss=1.500" in err) == terminal
    assert "a line" in err
    assert not tqdm._instances  # closed
