"""The settings of a study's runs: the same for all arms, except for what the study compares."""

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
"""Keys that all arms take from the shipped config for prediction, besides all of CELLSEG.INFERENCE."""

PROPOSAL_KEYS = ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TRAIN")
"""Keys that follow from the data together with the number of detections; as a study sets that number, it sets these."""

LOG_PERIOD = 20
"""Iterations between two losses that Detectron2 logs; short trainings are not evaluated more often than that."""

WITHOUT_EFFECT = (("OUTPUT_DIR",), ("DATALOADER", "NUM_WORKERS"), ("CELLSEG", "VALIDATION_OVERLAYS"))
"""Keys that change no result, and so are not among a run's settings."""


def reference_cfg(config: str, datasets: Sequence[str], user: Sequence[str]) -> CfgNode:
    """The shipped config with that one of several datasets which needs most detections.

    Args:
        config: its name.
        datasets: names of registered datasets, as CELLSEG.DATASET.
        user: KEY VALUE KEY VALUE ... of the command line.
    """
    with _quiet():
        cfgs = [build_cfg(config, ["CELLSEG.DATASET", name, *user]) for name in datasets]
    return max(cfgs, key=lambda cfg: cfg.TEST.DETECTIONS_PER_IMAGE)


def inference_overrides(reference: CfgNode) -> list[str]:
    """The settings of prediction for all arms, from :func:`reference_cfg`, as KEY VALUE KEY VALUE ..."""
    options = {f"CELLSEG.INFERENCE.{key}": value for key, value in flat(reference.CELLSEG.INFERENCE).items()}
    return _overrides({key: config_value(reference, key) for key in INFERENCE_KEYS} | options)


def schedule_overrides(arm_cfg: CfgNode, reference: CfgNode, iterations: int) -> list[str]:
    """The schedule of a training, as KEY VALUE KEY VALUE ...

    Warm-up and evaluations come at the same shares of the iterations as in the reference, in all arms. Steps of the
    learning rate, which a study may compare, come at the same shares as in the arm's config.

    Raises:
        CellSegError: there are not enough iterations for the steps.
    """
    steps = arm_cfg.SOLVER.STEPS
    if steps and iterations < len(steps) + 2:  # fvcore's bound
        raise CellSegError(f"{iterations} iterations are too few for a learning rate of {len(steps)} steps")
    share = iterations / reference.SOLVER.MAX_ITER
    arm_share = iterations / arm_cfg.SOLVER.MAX_ITER
    periods = {key: config_value(reference, key) for key in ("SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")}
    return _overrides(
        {
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.WARMUP_ITERS": round(reference.SOLVER.WARMUP_ITERS * share),
            "SOLVER.STEPS": tuple(round(step * arm_share) for step in steps),
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
    """The values of a run that replace those of its arm's config, as KEY VALUE KEY VALUE ...

    Args:
        config: the config that the arm is based on.
        arm: the values that the arm sets, see :meth:`cellseg_d2.studies.arms.Arm.overrides`.
        dataset: the dataset for training; validation uses its untiled images.
        seed: the run's random seed.
        reference: from :func:`reference_cfg`.
        iterations: length of the training.
        user: KEY VALUE KEY VALUE ... of the command line, which replace all others in all arms.
    """
    with _quiet():
        arm_cfg = build_cfg(config, [*arm, "CELLSEG.DATASET", dataset])
    fixed = {
        "CELLSEG.DATASET": dataset,
        "DATASETS.TEST": (f"{dataset}_val_whole",),
        "SEED": seed,
        # On whole images the loss is not comparable with that of tiles, and arms may have different losses.
        "CELLSEG.VALIDATION_LOSS": False,
        **{key: config_value(arm_cfg, key) for key in PROPOSAL_KEYS},
    }
    alike = [*schedule_overrides(arm_cfg, reference, iterations), *inference_overrides(reference)]
    return [*arm, *_overrides(fixed), *alike, *user]


def run_settings(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything that determines the result of a run, except its data, ready for JSON."""
    with _quiet():
        content: dict[str, Any] = yaml.safe_load(build_cfg(config, overrides).dump())
    for *folders, key in WITHOUT_EFFECT:
        node = content
        for folder in folders:
            node = node[folder]
        del node[key]
    return content


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys, such as ``SOLVER.BASE_LR``, whose values differ between two settings."""
    left, right = flat(one), flat(other)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [text for key, value in values.items() for text in (key, str(value))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the log lines of :func:`build_cfg`, which the run writes to its log again."""
    logger = logging.getLogger("cellseg_d2.engine")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
