import pytest
from detectron2.engine import hooks

from cellseg_d2.engine.hooks import BestCheckpoint
from cellseg_d2.engine.setup import build_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.errors import CellSegError

LITE = "mask_rcnn_lite0_FPN"


def test_a_model_over_the_limit_is_refused_with_its_parts(nuclei):
    cfg = build_cfg(LITE, ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "CELLSEG.MAX_PARAMETERS", "1000000"])
    with pytest.raises(
        CellSegError, match=r"5\.0 M parameters \(backbone \d.*roi_heads .*over the limit of 1\.0 M; CELLSEG"
    ):
        CellTrainer.build_model(cfg)


def test_the_best_checkpoint_is_looked_for_after_evaluation_and_before_the_state_is_saved(nuclei, tmp_path):
    opts = ["CELLSEG.DATASET", "nuclei", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    trainer = CellTrainer(build_cfg(LITE, [*opts, "DATALOADER.NUM_WORKERS", "0"]))
    kinds = [type(hook) for hook in trainer._hooks]
    wanted = [hooks.EvalHook, BestCheckpoint, hooks.PeriodicCheckpointer, hooks.PeriodicWriter]
    assert [kind for kind in kinds if kind in wanted] == wanted
    assert hooks.LRScheduler in kinds
