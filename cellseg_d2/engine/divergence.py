"""Trainings whose losses or weights become infinite or NaN: since when they have been wrong, and what to say of it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from cellseg_d2.engine.run_config import resumes_from

EXPLODED = 100
"""A loss of so many times the first one, or 1, is that of weights that no longer work."""

DIVERGED = "losses or boxes are"
"""What Detectron2 finds infinite or NaN."""


def describe_divergence(cfg: CfgNode, iteration: int, what: str) -> str:
    """The line that ends a training that has diverged.

    Args:
        cfg: its SOLVER.BASE_LR and OUTPUT_DIR are named.
        iteration: where it was found.
        what: what is infinite or NaN, such as :data:`DIVERGED`.
    """
    last = resumes_from(cfg.OUTPUT_DIR)
    return (
        f"training has diverged at iteration {iteration} ({what} infinite or NaN): lower SOLVER.BASE_LR, which is "
        f"{cfg.SOLVER.BASE_LR:g}, and train anew; "
        + (f"the last good checkpoint is {last}" if last else "there is no good checkpoint yet")
    )


def first_unsound(storage: EventStorage, start: int) -> int:
    """The iteration that led to a loss which never came back to the size of losses.

    Args:
        storage: the training's losses.
        start: the first iteration of this process.
    """
    history = storage.histories().get("total_loss")
    losses = history.values() if history is not None else []
    limit = EXPLODED * max(1.0, losses[0][0] if losses else 0.0)
    return max((int(place) for loss, place in losses if loss <= limit), default=start - 1)
