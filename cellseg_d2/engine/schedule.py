"""How long to train, at what rate and when to look: from a config, or from the data where the config leaves it open."""

from __future__ import annotations

import logging
import math
import time

from detectron2.config import CfgNode
from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

TIMES_SEEN = 25
"""How often a training of the data's own length sees each tile and learns from each cell.

A rule of thumb from two runs: the 53 tiles of the sample, whose AP from ``nuclei`` grew little after 150 of 300
iterations, and the 864 tiles of ``nuclei`` itself, which had 5,350.
"""

LEAST, MOST = 300, 20_000
"""Iterations of such a training."""

LONGEST_WARM_UP = 200
EVALUATIONS = 5

TIMED = 10
"""Iterations after which the time of all is known well enough; the first one is slower and does not count."""


def set_schedule(cfg: CfgNode, tiles: int, cells: int | None) -> None:
    """Fills in, in place, SOLVER.MAX_ITER where it is 0, as CELLSEG.SCHEDULE says.

    With ``epochs`` it is CELLSEG.EPOCHS of the tiles. With ``data`` it follows tiles and cells; the warm-up is a tenth
    of it, the rate falls to zero along a cosine, and validation comes five times.

    Args:
        cfg: its SOLVER, TEST and CELLSEG are used.
        tiles: for training.
        cells: in these tiles; None where that is not known.
    """
    solver = cfg.SOLVER
    if solver.MAX_ITER > 0:
        return
    if cfg.CELLSEG.SCHEDULE == "epochs":
        solver.MAX_ITER = math.ceil(cfg.CELLSEG.EPOCHS * tiles / solver.IMS_PER_BATCH)
        return
    heads = cfg.MODEL.ROI_HEADS
    learnt_at_once = max(solver.IMS_PER_BATCH * heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION, 1)
    for_all = max(tiles / solver.IMS_PER_BATCH, (cells or 0) / learnt_at_once)
    solver.MAX_ITER = min(max(math.ceil(TIMES_SEEN * for_all), LEAST), MOST)
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
    solver.WARMUP_ITERS = min(solver.MAX_ITER // 10, LONGEST_WARM_UP)
    cfg.TEST.EVAL_PERIOD = solver.CHECKPOINT_PERIOD = math.ceil(solver.MAX_ITER / EVALUATIONS)
    logger.info(
        "chosen for %d tiles with %s cells: %d iterations, %d of them warm-up, a cosine to zero, validation every %d",
        *(tiles, "unknown" if cells is None else cells, solver.MAX_ITER, solver.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD),
    )


class ExpectedTime(HookBase):
    """Says after a few iterations how long all of them will take."""

    def __init__(self) -> None:
        self._began = 0.0

    def after_step(self) -> None:
        """Takes the time after the first iteration and, ten iterations later, tells it."""
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if done == 1:
            self._began = time.monotonic()
        if done == TIMED + 1:
            left = self.trainer.max_iter - self.trainer.iter - 1
            each = (time.monotonic() - self._began) / TIMED
            logger.info("an iteration takes %.2f s, so the %d to come %s", each, left, duration(each * left))


def duration(seconds: float) -> str:
    """A time in words, as much as matters: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
