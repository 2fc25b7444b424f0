"""What the runs of a study are trained with: all alike but for what the study is about."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from detectron2.config import CfgNode

from cellseg_d2.config_checks import config_value
from cellseg_d2.engine.run_config import build_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.report.run_folder import flat

INFERENCE_KEYS = (
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
)
"""What all arms predict with as the shipped config does, and so is CELLSEG.INFERENCE as a whole."""

PROPOSAL_KEYS = ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TRAIN")
"""What a config may leave to the data together with its detections, which are given here."""

LOG_PERIOD = 20
"""Iterations between two losses that Detectron2 logs; short trainings are not evaluated more often either."""

WITHOUT_EFFECT = (("OUTPUT_DIR",), ("DATALOADER", "NUM_WORKERS"), ("CELLSEG", "VALIDATION_OVERLAYS"))
"""Keys that change no result: a run is the same run without them."""


def reference_cfg(config: str, datasets: Sequence[str], user: Sequence[str]) -> CfgNode:
    """The shipped config on the one of some datasets that asks for most detections.

    Args:
        config: its name.
        datasets: names of registered datasets, as CELLSEG.DATASET.
        user: KEY VALUE KEY VALUE ... of the command line.
    """
    with _quiet():
        cfgs = [build_cfg(config, ["CELLSEG.DATASET", name, *user]) for name in datasets]
    return max(cfgs, key=lambda cfg: cfg.TEST.DETECTIONS_PER_IMAGE)


def inference_overrides(reference: CfgNode) -> list[str]:
    """How all arms predict, as KEY VALUE KEY VALUE ...: what :func:`reference_cfg` says."""
    options = {f"CELLSEG.INFERENCE.{key}": value for key, value in flat(reference.CELLSEG.INFERENCE).items()}
    return _overrides({key: config_value(reference, key) for key in INFERENCE_KEYS} | options)


def schedule_overrides(own: CfgNode, reference: CfgNode, iterations: int) -> list[str]:
    """The length of a training, as KEY VALUE KEY VALUE ..., and what happens when in it.

    Warm-up and evaluations come at the same shares of it as in the reference, in all arms alike; steps of the learning
    rate, which may be what is compared, at the same shares as in the arm's own config.

    Raises:
        CellSegError: there are not enough iterations for the steps.
    """
    steps = own.SOLVER.STEPS
    if steps and iterations < len(steps) + 2:  # fvcore's bound
        raise CellSegError(f"{iterations} iterations are too few for a learning rate of {len(steps)} steps")
    share = iterations / reference.SOLVER.MAX_ITER
    own_share = iterations / own.SOLVER.MAX_ITER
    periods = {key: config_value(reference, key) for key in ("SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")}
    return _overrides(
        {
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.WARMUP_ITERS": round(reference.SOLVER.WARMUP_ITERS * share),
            "SOLVER.STEPS": tuple(round(step * own_share) for step in steps),
            **{key: max(LOG_PERIOD, round(period * share)) for key, period in periods.items() if period > 0},
        }
    )


def run_overrides(
    config: str,
    arm: Sequence[str],
    dataset: str,
    seed: int,
    reference: CfgNode,
    iterations: int,
    user: Sequence[str],
) -> list[str]:
    """What a run is trained with on top of its arm's config, as KEY VALUE KEY VALUE ...

    Args:
        config: the config that the arm is built on.
        arm: what the arm sets, see :meth:`cellseg_d2.studies.arms.Arm.overrides`.
        dataset: the one it is trained on; it is validated on the untiled images of that.
        seed: the run's random seed.
        reference: from :func:`reference_cfg`.
        iterations: length of the training.
        user: KEY VALUE KEY VALUE ... of the command line, which have the last word in all arms.
    """
    with _quiet():
        own = build_cfg(config, [*arm, "CELLSEG.DATASET", dataset])
    fixed = {
        "CELLSEG.DATASET": dataset,
        "DATASETS.TEST": (f"{dataset}_val_whole",),
        "SEED": seed,
        # on whole images it would be no loss of a tile, and the arms' losses may not be the same sum
        "CELLSEG.VALIDATION_LOSS": False,
        **{key: config_value(own, key) for key in PROPOSAL_KEYS},
    }
    alike = [*schedule_overrides(own, reference, iterations), *inference_overrides(reference)]
    return [*arm, *_overrides(fixed), *alike, *user]


def run_settings(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """All that decides the result of a run but its data, as JSON holds it."""
    with _quiet():
        content: dict[str, Any] = yaml.safe_load(build_cfg(config, overrides).dump())
    for *folders, key in WITHOUT_EFFECT:
        node = content
        for folder in folders:
            node = node[folder]
        del node[key]
    return content


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys, such as ``SOLVER.BASE_LR``, in which two settings differ."""
    left, right = flat(one), flat(other)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [text for key, value in values.items() for text in (key, str(value))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what a config says of itself when it is resolved: the run says it again, in its own log."""
    logger = logging.getLogger("cellseg_d2.engine")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
