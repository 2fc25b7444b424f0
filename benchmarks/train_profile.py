"""Where the time of a training step goes, by part, and what the shorter ways on a CPU gain over the long ones."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import PeriodicWriter
from detectron2.modeling.poolers import ROIPooler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F

import cellseg_d2
from benchmarks.table import TIMING_COLUMNS, Table, ratio, timing_cells
from benchmarks.timing import Timing, time_in_turn
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.engine.hooks import ProgressBar
from cellseg_d2.engine.optimizer import build_unclipped
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.modeling import lite_training
from cellseg_d2.modeling.group_norm import CellGroupNorm
from cellseg_d2.modeling.mask_head import CellMaskHead
from cellseg_d2.modeling.pooler import CellPooler

DATASET, SEED = "profiled", 1
PARTS = ("data", "backbone", "FPN", "RPN: matching", "RPN: proposals", "RPN: rest", "box head", "mask head")
"""What is measured in the forward pass; of those in :data:`BACKWARD` the gradient too."""

BACKWARD = ("mask head", "box head", "RPN: rest", "FPN", "backbone")
"""Parts in the order in which the gradient meets them."""

NAMES = (*PARTS, *(f"{part}, gradient" for part in BACKWARD), "optimiser", "metrics", "rest")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        data: labelled images in the input layout.
        models: names of configs.
        repeats: timed steps of each way.
        opts: further config keys and values, in turn.
    """

    data: Path
    models: tuple[str, ...] = ("mask_rcnn_lite0_FPN", "ablations/laptop_sgd")
    repeats: int = 10
    opts: tuple[str, ...] = ()


QUICK = ("SOLVER.IMS_PER_BATCH", "1", "INPUT.CROP.SIZE", "[64, 64]")
"""For a test of the benchmark itself; its figures mean nothing."""


def report(settings: Settings) -> str:
    """The tables as Markdown."""
    shares: list[list[str]] = []
    ways: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        convert(settings.data, Path(folder) / DATASET, ConvertOptions())
        cellseg_d2.setup(folder)
        for name in settings.models:
            own_shares, own_ways = measure(name, settings, Path(folder))
            shares += own_shares
            ways += own_ways
    count = torch.get_num_threads()
    text = (
        f"Steps of the trainer on crops of converted tiles as the config draws them, read in the same process; the "
        f"processor's time with {count} thread{'s' if count > 1 else ''}. Before: the ways of Detectron2, torchvision "
        f"and the backbone's package. Both ways in turn, each from the same weights and seed, after two steps."
    )
    columns, *rows = zip(("part", *NAMES), *shares)
    tables = [
        Table("Where the time of a training step goes", text, columns, rows),
        Table("Ways to train", text, ["model: way", *TIMING_COLUMNS, "times as fast"], ways),
    ]
    return "\n".join(table.markdown() for table in tables)


def measure(name: str, settings: Settings, folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables for one config."""
    trainers = {way: _trainer(name, settings, folder / way, way == "before") for way in ("before", "now")}
    watches = {way: Watch() for way in trainers}
    for way, trainer in trainers.items():
        _watch(trainer, watches[way])
    works = {way: partial(_step, trainer, way == "before") for way, trainer in trainers.items()}
    time_in_turn(works, 1, clock=time.process_time)  # with its warm-up: two steps
    for watch in watches.values():
        watch.seconds.clear()
    timings = time_in_turn(works, settings.repeats, warm_up=False, clock=time.process_time)
    base = timings["before"].median
    return [[f"{name}: {way} %", *_shares(watches[way], timing)] for way, timing in timings.items()], [
        [f"{name}: {way}", *timing_cells(timing), ratio(base, timing.median)] for way, timing in timings.items()
    ]


class _LongWayTrainer(CellTrainer):
    """Clips gradients as Detectron2 does."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The same optimizer with Detectron2's clipping."""
        return maybe_add_gradient_clipping(cfg, build_unclipped(cfg, model))


def _trainer(name: str, settings: Settings, output: Path, long_way: bool) -> CellTrainer:
    """A trainer that is ready for its first step, and that neither saves nor evaluates."""
    output.mkdir(exist_ok=True)
    keys = {"CELLSEG.DATASET": DATASET, "MODEL.DEVICE": "cpu", "OUTPUT_DIR": str(output), "SEED": str(SEED)}
    keys |= {"DATALOADER.NUM_WORKERS": "0", "SOLVER.MAX_ITER": "100000", "SOLVER.CHECKPOINT_PERIOD": "100000"}
    keys |= {"TEST.EVAL_PERIOD": "100000"}
    cfg = build_cfg(name, [*(text for pair in keys.items() for text in pair), *settings.opts])
    seed_all_rng(SEED)
    trainer = (_LongWayTrainer if long_way else CellTrainer)(cfg)
    trainer.resume_or_load(resume=False)
    trainer.iter, trainer.storage = 0, EventStorage(0)
    trainer._hooks = [hook for hook in trainer._hooks if not isinstance(hook, (ProgressBar, PeriodicWriter))]
    with trainer.storage:
        trainer.before_train()
    return trainer


def _step(trainer: CellTrainer, long_way: bool) -> None:
    torch.manual_seed(trainer.iter)  # both ways sample alike
    with trainer.storage, long_ways() if long_way else ExitStack():
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()
    trainer.iter += 1


@contextmanager
def long_ways() -> Iterator[None]:
    """A context in which models train by the ways of Detectron2, torchvision and the backbone's package."""
    replaced = {
        (lite_training, "stem"): lambda conv, norm, x: F.relu6(norm(conv(x))),
        (lite_training, "block"): lambda module, x: module(x),
        (lite_training, "in_channel_order"): lambda x: x,
        (CellPooler, "forward"): ROIPooler.forward,
        (CellGroupNorm, "forward"): nn.GroupNorm.forward,
        (CellMaskHead, "own_class_layers"): lambda head, x, instances: head.layers(x),
    }
    with ExitStack() as stack:
        for (owner, name), function in replaced.items():
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


class Watch:
    """Seconds of the processor by part, of calls and of stretches of the backward pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = 0.0

    def timed(self, function: Callable[..., Any], part: str, without: Sequence[str] = ()) -> Callable[..., Any]:
        """A function whose time counts for a part, less what the parts ``without`` take within it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            inside, started = sum(self.seconds[other] for other in without), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                inside -= sum(self.seconds[other] for other in without)
                self.seconds[part] += time.process_time() - started + inside

        return run

    def marked(self, tensors: Sequence[Tensor], part: str) -> list[Tensor]:
        """The same tensors; when all their gradients are there, the backward pass of a part has ended."""
        return list(_Mark.apply(self, f"{part}, gradient", *tensors))

    def reached(self, part: str) -> None:
        """The end of a stretch of the backward pass."""
        now = time.process_time()
        self.seconds[part] += now - self.last
        self.last = now


class _Mark(torch.autograd.Function):
    """Passes tensors on, and tells a watch when the gradient has come back to them."""

    @staticmethod
    def forward(ctx: Any, watch: Watch, part: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.watch, ctx.part = watch, part
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        ctx.watch.reached(ctx.part)
        return (None, None, *gradients)


def _watch(trainer: CellTrainer, watch: Watch) -> None:
    """Measures the parts of a trainer's steps."""
    model, loop = trainer.model, trainer._trainer
    backbone, rpn, heads = model.backbone, model.proposal_generator, model.roi_heads

    def through(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Features by name go into a part through a mark."""
        return lambda features, *rest: function(_marked(watch, features, part), *rest)

    backbone.bottom_up.forward = watch.timed(backbone.bottom_up.forward, "backbone")
    backbone.bottom_up.register_forward_hook(lambda _, images, found: _marked(watch, found, "FPN"))
    backbone.forward = watch.timed(backbone.forward, "FPN", ["backbone"])
    rpn.label_and_sample_anchors = watch.timed(rpn.label_and_sample_anchors, "RPN: matching")
    rpn.predict_proposals = watch.timed(rpn.predict_proposals, "RPN: proposals")
    forward = rpn.forward
    rpn.forward = watch.timed(
        lambda images, features, *rest: forward(images, _marked(watch, features, "RPN: rest"), *rest),
        *("RPN: rest", ["RPN: matching", "RPN: proposals"]),
    )
    heads.label_and_sample_proposals = watch.timed(heads.label_and_sample_proposals, "box head")
    heads._forward_box = watch.timed(through(heads._forward_box, "box head"), "box head")
    heads._forward_mask = watch.timed(through(heads._forward_mask, "mask head"), "mask head")
    loop._data_loader_iter_obj = _TimedStream(iter(loop.data_loader), watch)
    loop._write_metrics = watch.timed(loop._write_metrics, "metrics")
    loop.optimizer.step = watch.timed(loop.optimizer.step, "optimiser")
    whole = model.forward

    def run(batch: Any) -> dict[str, Tensor]:
        losses = whole(batch)
        names = list(losses)
        return dict(zip(names, watch.marked([losses[name] for name in names], "start")))

    model.forward = run
    loop.after_backward = lambda: watch.reached("backbone, gradient")


def _marked(watch: Watch, features: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return dict(zip(features, watch.marked(list(features.values()), part)))


class _TimedStream:
    """An iterator whose time counts as data."""

    def __init__(self, batches: Iterator[Any], watch: Watch) -> None:
        self._next = watch.timed(lambda: next(batches), "data")

    def __iter__(self) -> _TimedStream:
        return self

    def __next__(self) -> Any:
        return self._next()


def _shares(watch: Watch, timing: Timing) -> list[str]:
    """Percent of all steps by part."""
    whole = sum(timing.seconds)
    known = {name: watch.seconds[name] for name in NAMES[:-1]}
    known["rest"] = whole - sum(known.values())
    return [f"{100 * value / whole:.1f}" for value in known.values()]
