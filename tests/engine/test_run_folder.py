"""The folder of a training, from the command line to the run."""

import pytest
import torch

from cellseg_d2.commands.train import build_parser
from cellseg_d2.config import get_cfg
from cellseg_d2.engine.run_folder import clear_for, command_to_go_on, evaluation_dir, has_ended, run_folder
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import CellCheckpointer


def _cfg(folder, *opts):
    return get_cfg(overrides=["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "10", *opts])


def _args(*words):
    return build_parser().parse_args(words)


def _save(folder, iteration, **state):
    CellCheckpointer(torch.nn.Linear(1, 1), _cfg(folder), strict=True).save(
        f"model_{iteration:07d}", iteration=iteration, trainer=state
    )


def test_weights_in_the_folder_are_not_replaced_by_a_run_that_begins_with_them(tmp_path):
    _save(tmp_path, 9)
    cfg = _cfg(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "model_0000009.pth"))
    message = r"model_0000009\.pth: lies in the training that --overwrite replaces"
    with pytest.raises(CellSegError, match=message), run_folder(cfg, _args("--overwrite")):
        pytest.fail("it was claimed")
    assert (tmp_path / "model_0000009.pth").is_file()


def test_only_the_first_process_claims_and_clears(tmp_path):
    _save(tmp_path, 9)
    second = _args("--overwrite", "--machine-rank", "1", "--num-machines", "2")
    with run_folder(_cfg(tmp_path), second):
        clear_for(_cfg(tmp_path), second)
    assert has_ended(_cfg(tmp_path))
    with run_folder(_cfg(tmp_path), _args("--overwrite")):
        clear_for(_cfg(tmp_path), _args("--overwrite"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("iteration", "unevaluated", "ended"), [(9, False, True), (8, False, False), (9, True, False)])
def test_a_training_has_ended_with_its_last_evaluation(iteration, unevaluated, ended, tmp_path):
    assert not has_ended(_cfg(tmp_path))
    _save(tmp_path, iteration, unevaluated=unevaluated)
    assert has_ended(_cfg(tmp_path)) == ended


def test_a_resume_that_finds_weights_alone_removes_none(tmp_path):
    (tmp_path / "model_best.pth").write_bytes(b"a week of work")
    with pytest.raises(CellSegError, match="holds weights, but no last_checkpoint to go on from"):
        clear_for(_cfg(tmp_path), _args("--resume"))
    assert (tmp_path / "model_best.pth").read_bytes() == b"a week of work"
    clear_for(_cfg(tmp_path), _args("--overwrite"))
    assert not list(tmp_path.iterdir())


def test_a_resume_without_a_checkpoint_joins_no_curves(tmp_path, caplog):
    (tmp_path / "metrics.json").write_text("{}\n")
    clear_for(_cfg(tmp_path), _args("--resume"))
    assert "has no checkpoint to go on from, so training begins anew" in caplog.text
    assert not list(tmp_path.iterdir())


def test_an_evaluation_stays_out_of_a_trainings_files(tmp_path):
    assert evaluation_dir(str(tmp_path)) == str(tmp_path)
    _save(tmp_path, 9)
    assert evaluation_dir(str(tmp_path)) == str(tmp_path / "evaluation")


@pytest.mark.parametrize(
    ("program", "begins"),
    [("cellseg-d2 train", "cellseg-d2 train"), ("tools/train_net.py", "python tools/train_net.py")],
)
def test_the_command_to_go_on_is_the_one_that_was_typed(program, begins, monkeypatch):
    monkeypatch.setattr("sys.argv", [program, "--overwrite", "--num-gpus", "2", "SOLVER.STEPS", "(1, 2)"])
    assert command_to_go_on() == f"{begins} --resume --num-gpus 2 SOLVER.STEPS '(1, 2)'"
