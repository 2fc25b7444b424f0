"""How long a training is where the config leaves it open, and what is said of its time."""

import logging

import pytest

from cellseg_d2.config import get_cfg
from cellseg_d2.engine.run_config import resolve
from cellseg_d2.engine.schedule import LEAST, MOST, PATIENCE, TIMES_SEEN, set_schedule

LITE = "mask_rcnn_lite0_FPN"


def _cfg(*keys):
    """Four crops an iteration, of which 64 boxes each are cells."""
    heads = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "128", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "0.5"]
    return get_cfg(LITE, ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "0", *heads, *keys])


@pytest.mark.parametrize(
    ("tiles", "cells", "iterations"),
    [
        pytest.param(400, 2000, TIMES_SEEN * 100, id="tiles decide"),
        pytest.param(400, 256 * 200, TIMES_SEEN * 200, id="cells decide"),
        pytest.param(400, None, TIMES_SEEN * 100, id="cells are not known"),
        pytest.param(3, 20, LEAST, id="few"),
        pytest.param(10**6, 10**8, MOST, id="many"),
    ],
)
def test_the_length_follows_tiles_and_cells(tiles, cells, iterations):
    cfg = _cfg()
    set_schedule(cfg, tiles, cells)
    solver = cfg.SOLVER
    assert solver.MAX_ITER == iterations
    assert solver.LR_SCHEDULER_NAME == "WarmupCosineLR"
    assert 0 < solver.WARMUP_ITERS <= iterations // 10
    assert 5 * cfg.TEST.EVAL_PERIOD == 5 * solver.CHECKPOINT_PERIOD == iterations


def test_a_validation_part_ends_it_early():
    cfg = _cfg("DATASETS.TEST", "('val',)")
    set_schedule(cfg, 400, 2000)
    assert cfg.CELLSEG.EARLY_STOPPING == PATIENCE
    cfg = _cfg("DATASETS.TEST", "('val',)", "CELLSEG.EARLY_STOPPING", "4")
    set_schedule(cfg, 400, 2000)
    assert cfg.CELLSEG.EARLY_STOPPING == 4
    cfg = _cfg()
    set_schedule(cfg, 400, 2000)
    assert cfg.CELLSEG.EARLY_STOPPING == 0  # nothing to go by


def test_a_length_that_is_given_leaves_everything_as_it_is():
    cfg = _cfg("SOLVER.MAX_ITER", "77")
    before = cfg.dump()
    set_schedule(cfg, 400, 2000)
    assert cfg.dump() == before


def test_cells_and_tiles_are_those_of_the_dataset(nuclei, caplog):
    cfg = _cfg("CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu")
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        resolve(cfg)
    assert cfg.SOLVER.MAX_ITER >= LEAST
    (line,) = [message for message in caplog.messages if message.startswith("chosen for ")]
    assert cfg.CELLSEG.EARLY_STOPPING == PATIENCE
    assert line.startswith("chosen for 53 tiles with 1") and f"{cfg.SOLVER.MAX_ITER} iterations" in line
