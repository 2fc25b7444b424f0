import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from cellseg_d2.engine.averaging import WeightAverage


class _Model(nn.Module):
    """Weights that training moves, and statistics that it counts."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, data):
        return {"loss": self.norm(self.layer(data)).square().sum() + self.layer.weight.sum()}


def _trainer(model, data=None):
    data = [torch.randn(4, 2) for _ in range(50)] if data is None else data
    return SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1))


def test_the_average_follows_the_weights():
    torch.manual_seed(0)
    model = _Model()
    trainer, average = _trainer(model), WeightAverage(model, 0.5)
    expected = model.layer.weight.detach().clone()

    class Follow(WeightAverage):
        def before_train(self): ...

        def after_step(self):
            decay = min(0.5, (2 + self.trainer.iter) / (11 + self.trainer.iter))
            expected.mul_(decay).add_((1 - decay) * model.layer.weight.detach())

    trainer.register_hooks([average, Follow(model, 0.5)])
    trainer.train(0, 12)
    assert torch.allclose(average.average["layer.weight"], expected)
    assert not torch.allclose(average.average["layer.weight"], model.layer.weight)
    assert average.average["norm.num_batches_tracked"] == 12


def test_the_average_is_applied_for_as_long_as_asked():
    model = _Model()
    trainer, average = _trainer(model), WeightAverage(model, 0.9)
    trainer.register_hooks([average])
    trainer.train(0, 3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyError), average.applied():
        assert all(torch.equal(weight, average.average[name]) for name, weight in model.state_dict().items())
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_resumed_average_is_that_of_an_unbroken_run():
    def run(*pieces):
        torch.manual_seed(0)
        model = _Model()
        data, state = iter([torch.randn(4, 2) for _ in range(50)]), None
        for start, end in pieces:
            average = WeightAverage(model, 0.9)
            if state is not None:
                average.load_state_dict(state)
            trainer = _trainer(model, data)
            trainer.register_hooks([average])
            trainer.train(start, end)
            state = average.state_dict()
        return state["average"]

    whole, broken = run((0, 6)), run((0, 2), (2, 6))
    assert all(torch.equal(broken[name], weight) for name, weight in whole.items())


def test_a_checkpoint_of_another_model_begins_the_average_afresh():
    model = _Model()
    average = WeightAverage(model, 0.9)
    average.load_state_dict({"average": {"other": torch.zeros(1)}})
    trainer = _trainer(model)
    trainer.register_hooks([average])
    trainer.train(0, 0)
    assert torch.equal(average.average["layer.weight"], model.layer.weight)
