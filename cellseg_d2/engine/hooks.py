"""Hooks that Detectron2 lacks."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.engine import HookBase

from cellseg_d2.engine.checkpoint import BEST_NAME, CellCheckpointer

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Saves ``model_best.pth`` whenever a metric is better than ever.

    Unlike Detectron2's ``BestCheckpointer`` it knows the best value after a resume, and ``last_checkpoint`` stays where
    it is. It must run after the evaluation and before the periodic checkpointer, which then saves its state.

    Args:
        period: of evaluation, in iterations; 0 for evaluation at the end only.
        checkpointer: writes the file.
        metric: as evaluation names it, such as ``segm/AP50``; larger is better.
    """

    def __init__(self, period: int, checkpointer: CellCheckpointer, metric: str) -> None:
        self.period = period
        self.checkpointer = checkpointer
        self.metric = metric
        self.best_value: float | None = None
        self.best_iteration: int | None = None

    def after_step(self) -> None:
        """Looks at the metric where it was just evaluated."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._compare(self.trainer.iter)

    def after_train(self) -> None:
        """Looks at the metric of the last evaluation."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:  # not where training stopped at an exception
            self._compare(self.trainer.max_iter - 1)

    def _compare(self, iteration: int) -> None:
        latest = self.trainer.storage.latest().get(self.metric)
        if latest is None:
            logger.warning("evaluation gave no %s, so no best checkpoint is kept", self.metric)
            return
        value = latest[0]
        if math.isnan(value) or (self.best_value is not None and value <= self.best_value):
            return
        self.best_value, self.best_iteration = float(value), iteration
        logger.info("best %s so far: %.2f at iteration %d", self.metric, value, iteration)
        self.checkpointer.save(BEST_NAME, iteration=iteration)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this hook."""
        return {"best_value": self.best_value, "best_iteration": self.best_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up from a checkpoint."""
        self.best_value, self.best_iteration = state["best_value"], state["best_iteration"]
