import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from torch import nn

from cellseg_d2.config import get_cfg
from cellseg_d2.engine.checkpoint import CellCheckpointer
from cellseg_d2.engine.hooks import BestCheckpoint


class _Line(nn.Module):
    """The smallest model that Detectron2's trainer takes."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, data):
        return {"loss": (self.slope - data).square().sum()}


def _train(folder, scores, start=0, load=None):
    """Trains on a constant, 'evaluating' to ``scores`` every second iteration; the hook and what it saved last."""
    model = _Line()
    trainer = SimpleTrainer(model, [torch.ones(1)] * 100, torch.optim.SGD(model.parameters(), 0.1))
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", str(folder)])
    best = BestCheckpoint(2, CellCheckpointer(model, cfg, strict=False), "segm/AP50")
    if load is not None:
        best.load_state_dict(load)
    values = iter(scores)
    trainer.register_hooks([hooks.EvalHook(2, lambda: {"segm": {"AP50": next(values)}}), best])
    trainer.train(start, start + 2 * len(scores))
    saved = folder / "model_best.pth"
    return best, torch.load(saved, weights_only=True)["iteration"] if saved.exists() else None


@pytest.mark.parametrize(
    ("scores", "value", "iteration"),
    [
        ([1.0, 3.0, 2.0], 3.0, 3),
        ([1.0, 2.0, 3.0], 3.0, 5),
        ([2.0, 2.0], 2.0, 1),
        ([float("nan"), 1.0], 1.0, 3),
        ([float("nan")], None, None),
    ],
    ids=["in the middle", "at the end", "a tie keeps the first", "NaN is not better", "never"],
)
def test_the_best_is_saved(scores, value, iteration, tmp_path):
    best, saved_at = _train(tmp_path, scores)
    assert (best.best_value, saved_at) == (value, iteration)


def test_the_best_value_survives_a_resume(tmp_path):
    first, _ = _train(tmp_path, [5.0])
    second, saved_at = _train(tmp_path, [4.0, 4.5], start=2, load=first.state_dict())
    assert second.best_value == 5.0
    assert saved_at == 1  # the file of the first run


def test_a_metric_that_evaluation_does_not_give_is_said(tmp_path, caplog):
    model = _Line()
    trainer = SimpleTrainer(model, [torch.ones(1)] * 9, torch.optim.SGD(model.parameters(), 0.1))
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["OUTPUT_DIR", str(tmp_path)])
    trainer.register_hooks([BestCheckpoint(0, CellCheckpointer(model, cfg, strict=False), "segm/AP50")])
    with caplog.at_level("WARNING", "cellseg_d2"):
        trainer.train(0, 2)
    assert "segm/AP50" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()
