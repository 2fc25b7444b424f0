"""Hooks that Detectron2 lacks."""

from __future__ import annotations

import logging
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from detectron2.engine import HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

MEASURED = 5
"""Iterations after which the time that is left is estimated."""

Best = dict[str, Any]
"""The best ``value`` of a metric and the ``iteration`` it was reached at; both None before the first."""


def is_due(trainer: TrainerBase, period: int) -> bool:
    """Whether an evaluation follows this iteration: every ``period`` iterations, and after the last one."""
    done = trainer.iter + 1
    return done >= trainer.max_iter or (period > 0 and done % period == 0)


class Evaluation(EvalHook):
    """Detectron2's ``EvalHook``, but the last evaluation, like all others, comes before the checkpoint is written.

    Detectron2 evaluates last after it, so that the last checkpoint would not contain the best value.
    """

    def after_step(self) -> None:
        """Evaluates where it is due."""
        if is_due(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        """Nothing is left to evaluate; what the function refers to may go."""
        del self._func


class AfterEvaluation(HookBase, ABC):
    """A hook that reads the metrics right after :class:`Evaluation`, of the same period, has written them.

    Args:
        period: iterations between evaluations; 0 evaluates at the end only.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        """After an evaluation."""
        if is_due(self.trainer, self.period):
            self.evaluated(self.trainer.iter)

    def latest(self, metric: str, iteration: int) -> float | None:
        """A metric as this iteration's evaluation gave it; None where it gave none."""
        value, written_at = self.trainer.storage.latest().get(metric, (None, None))
        return value if written_at is not None and written_at >= iteration else None

    @abstractmethod
    def evaluated(self, iteration: int) -> None:
        """What to do then."""


class BestCheckpoint(AfterEvaluation):
    """Saves the weights whenever a metric reaches a new best value.

    Unlike Detectron2's ``BestCheckpointer`` it knows the best value after a resume, and ``last_checkpoint`` stays where
    it is. It must run after the evaluation and before the periodic checkpointer, which then saves its state.

    Args:
        period: iterations between evaluations; 0 evaluates at the end only.
        savers: by metric, as evaluation names it, such as ``segm/AP50``, what to call with the iteration and the value;
            larger is better.
    """

    def __init__(self, period: int, savers: Mapping[str, Callable[[int, float], None]]) -> None:
        super().__init__(period)
        self.savers = dict(savers)
        self.best: dict[str, Best] = {metric: {"value": None, "iteration": None} for metric in savers}

    def evaluated(self, iteration: int) -> None:
        """Saves where a metric is better."""
        for metric, save in self.savers.items():
            value = self.latest(metric, iteration)
            if value is None:
                logger.warning("evaluation gave no %s, so no best checkpoint is kept", metric)
                continue
            if not is_better(value, self.best[metric]["value"]):
                continue
            self.best[metric] = {"value": float(value), "iteration": iteration}
            logger.info("best %s so far: %.2f at iteration %d", metric, value, iteration)
            save(iteration, float(value))

    def state_dict(self) -> dict[str, Any]:
        """The state of this hook for a checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from a checkpoint; a metric that is not in it starts from the beginning."""
        self.best |= {metric: best for metric, best in state["best"].items() if metric in self.best}


class EarlyStopping(AfterEvaluation):
    """Asks the trainer to stop when a metric has not been better for some evaluations.

    Every process needs this hook, since all have to stop at the same iteration; only the first one knows the metrics.

    Args:
        period: iterations between evaluations.
        metric: as evaluation names it; larger is better.
        patience: evaluations without a better value.
    """

    def __init__(self, period: int, metric: str, patience: int) -> None:
        super().__init__(period)
        self.metric = metric
        self.patience = patience
        self.best_value: float | None = None
        self.without_gain = 0

    def before_train(self) -> None:
        """Stops at once where the run that is resumed had been stopped."""
        self._stop_if_due()

    def evaluated(self, iteration: int) -> None:
        """Counts."""
        value = self.latest(self.metric, iteration)
        if value is None:
            if comm.is_main_process():
                logger.warning("evaluation gave no %s, so it does not count for early stopping", self.metric)
        elif is_better(value, self.best_value):
            self.best_value, self.without_gain = float(value), 0
        else:
            self.without_gain += 1
        self.best_value, self.without_gain = comm.all_gather((self.best_value, self.without_gain))[0]
        self._stop_if_due()

    def _stop_if_due(self) -> None:
        if self.without_gain >= self.patience:
            logger.info("%s was not better than %s in %d evaluations", self.metric, self.best_value, self.without_gain)
            self.trainer.stopping = True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this hook."""
        return {"metric": self.metric, "best_value": self.best_value, "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from a checkpoint; with another metric it starts from the beginning."""
        if state["metric"] == self.metric:
            self.best_value, self.without_gain = state["best_value"], state["without_gain"]


class TimeLeft(HookBase):
    """Says once, after the first iterations, how long the training will take."""

    def after_step(self) -> None:
        """By the pace of the iterations, which Detectron2 measures from the third one on."""
        if self.trainer.iter - self.trainer.start_iter == MEASURED:
            pace = self.trainer.storage.history("time").median(MEASURED)
            left = timedelta(seconds=round(pace * (self.trainer.max_iter - self.trainer.iter - 1)))
            logger.info("time: about %s more, at %.2f s an iteration, and the evaluations", left, pace)


class ProgressBar(HookBase):
    """A bar with the loss and the time left on a terminal, under the log lines; nothing where there is no terminal."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._bar: tqdm[Any] | None = None

    def before_train(self) -> None:
        """Opens the bar and lets log lines pass above it."""
        if not sys.stderr.isatty():
            return
        loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "cellseg_d2")]
        self._open.enter_context(logging_redirect_tqdm(loggers))
        start, end = self.trainer.start_iter, self.trainer.max_iter
        self._bar = self._open.enter_context(tqdm(total=end, initial=start, desc="training", unit="iteration"))

    def after_step(self) -> None:
        """One iteration on."""
        if self._bar is None:
            return
        loss = self.trainer.storage.latest().get("total_loss")
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss[0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Closes the bar, also where training ended by an exception."""
        self._open.close()


def is_better(value: float, best: float | None) -> bool:
    """Whether a value is above the best so far; NaN is not, and a tie keeps the first."""
    return not math.isnan(value) and (best is None or value > best)
