"""How long to train, at what rate and when to look: from a config, or from the data where the config leaves it open."""

from __future__ import annotations

import logging
import math

from detectron2.config import CfgNode

from cellseg_d2.config_checks import STEPPING
from cellseg_d2.errors import CellSegError

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

PATIENCE = 2
"""Evaluations without a gain that end such a training: two fifths of its length."""


def set_schedule(cfg: CfgNode, tiles: int, cells: int | None) -> None:
    """Fills in, in place, SOLVER.MAX_ITER where it is 0, as CELLSEG.SCHEDULE says.

    With ``epochs`` it is CELLSEG.EPOCHS of the tiles. With ``data`` it follows tiles and cells; the warm-up is a tenth
    of it, the rate falls to zero along a cosine, validation comes five times, and ends the training where it sees no
    more gain (CELLSEG.EARLY_STOPPING, if that is not set).

    Args:
        cfg: its SOLVER, TEST, DATASETS and CELLSEG are used.
        tiles: the number of training tiles.
        cells: the number of cells in them; None where that is not known.
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
    solver.LR_SCHEDULER_NAME, solver.STEPS = "WarmupCosineLR", ()
    solver.WARMUP_ITERS = min(solver.MAX_ITER // 10, LONGEST_WARM_UP)
    cfg.TEST.EVAL_PERIOD = solver.CHECKPOINT_PERIOD = math.ceil(solver.MAX_ITER / EVALUATIONS)
    if cfg.DATASETS.TEST:
        cfg.CELLSEG.EARLY_STOPPING = cfg.CELLSEG.EARLY_STOPPING or PATIENCE
    logger.info(
        "chosen for %d tiles with %s cells: %d iterations, %d of them warm-up, a cosine to zero, validation every %d",
        *(tiles, "unknown" if cells is None else cells, solver.MAX_ITER, solver.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD),
    )
    if cfg.CELLSEG.EARLY_STOPPING:
        logger.info(
            "it ends earlier after %d validations without a better %s (CELLSEG.EARLY_STOPPING)",
            *(cfg.CELLSEG.EARLY_STOPPING, cfg.CELLSEG.BEST_METRIC),
        )


def check_steps(cfg: CfgNode) -> None:
    """Raises CellSegError where a training would ignore SOLVER.STEPS."""
    scheduler = cfg.SOLVER.LR_SCHEDULER_NAME
    if cfg.SOLVER.STEPS and scheduler != STEPPING:
        raise CellSegError(f"SOLVER.STEPS has no effect on {scheduler}; add SOLVER.LR_SCHEDULER_NAME {STEPPING}")
