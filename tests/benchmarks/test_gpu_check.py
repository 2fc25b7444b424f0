"""The check of GPUs, with the CPU on both sides: that what is the same passes, and that what differs is found."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tables import read_tables

from benchmarks.gpu_check import models, prediction, training
from benchmarks.gpu_check.__main__ import IMAGES, PARTS, checks
from benchmarks.gpu_check.findings import Side, compared, guarded, small
from cellseg_d2.images.listing import list_images

CPU = Side("cpu")
OTHER = Side("cpu", ("MODEL.PIXEL_MEAN", "[120.0, 120.0, 120.0]", "CELLSEG.CHECK_WEIGHTS_ORIGIN", "False"))
"""A side that sees its images a little brighter."""

LITE = "ablations/laptop_sgd"


def _ended(findings):
    return {finding.check: finding.ended for finding in findings}


def test_a_model_is_like_itself():
    findings = list(models.compare_models(LITE, small(CPU, CPU)))
    assert [finding.check.removeprefix(f"{LITE}: ") for finding in findings] == [
        *("features", "gradient", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
    ]
    assert {finding.ended for finding in findings} == {"ok"}


def test_other_kernels_differ_by_less_than_is_allowed():
    findings = list(models.compare_models(LITE, small(CPU, replace(CPU, onednn=False))))
    assert {finding.ended for finding in findings} == {"ok"}
    assert float(findings[0].difference) > 0


def test_a_model_that_sees_other_pixels_is_found():
    ended = _ended(models.compare_models(LITE, small(CPU, OTHER)))
    assert ended[f"{LITE}: features"] == ended[f"{LITE}: gradient"] == "FAILED"


def test_other_devices_draw_the_random_numbers_of_the_cpu():
    torch.manual_seed(0)
    expected = torch.rand(3), torch.randperm(5)
    torch.manual_seed(0)
    with models.DrawOnCPU():
        drawn = torch.rand(3, device="cpu"), torch.randperm(5, device=torch.device("cpu"))
        elsewhere = torch.rand(3, device="meta")
    assert all(torch.equal(*pair) for pair in zip(expected, drawn))
    assert elsewhere.device.type == "meta"


def test_steps_of_mixed_precision_move_the_weights():
    first, moved = models.mixed_steps("bfloat16", small(CPU, CPU))
    assert (first.ended, moved.ended) == ("ok", "ok")
    assert 0 < float(first.difference) < 0.05  # bfloat16 was at work, and not float32
    (left_out,) = models.mixed_steps("float16", small(CPU, CPU))
    assert left_out.ended == "not run: float16 needs CUDA" and not left_out.failed


def test_trainings_are_compared_with_the_cpus_resumed_and_shared():
    against_cpu, resumed, shared = training.compare_trainings(small(CPU, OTHER))
    assert (against_cpu.ended, resumed.ended, shared.ended) == ("FAILED", "ok", "ok")
    assert float(resumed.difference) == 0


def test_a_training_is_like_itself_and_one_that_lost_its_steps_is_found():
    start, end = torch.zeros(4), torch.ones(4)
    unbroken = training.Training(start, end)
    assert training.weights_apart("", unbroken, end, 2.0).ended == "ok"
    assert training.weights_apart("", unbroken, start, 0.0).ended == "FAILED"


@pytest.fixture(scope="module")
def cells():
    return prediction.predict(CPU, list_images(IMAGES, None)[:1])


def test_predictions_are_like_themselves(cells):
    findings = list(prediction.compare_cells(cells, cells))
    assert [finding.ended for finding in findings] == ["ok", "ok"]
    assert findings[0].reference == f"{(cells[0].scores >= prediction.LEAST_SCORE).sum()} cells"


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        pytest.param(lambda cells: cells[1:], ["FAILED", "FAILED"], id="a cell is missing"),
        pytest.param(lambda cells: cells.with_scores(cells.scores * 0.97), ["ok", "FAILED"], id="lower scores"),
        pytest.param(
            lambda cells: replace(cells, masks=[mask & (np.arange(mask.shape[1]) > 1) for mask in cells.masks]),
            ["FAILED", "ok"],
            id="narrower masks",
        ),
        pytest.param(lambda cells: replace(cells, classes=cells.classes + 1), ["FAILED", "FAILED"], id="other classes"),
    ],
)
def test_a_prediction_that_differs_is_found(cells, change, ended):
    best_first = cells[0][np.argsort(-cells[0].scores)]
    assert [finding.ended for finding in prediction.compare_cells([best_first], [change(best_first)])] == ended


def test_predictions_without_a_cell_prove_nothing(cells):
    (finding,) = prediction.compare_cells([cells[0][:0]], [cells[0][:0]])
    assert finding.failed


def test_what_is_no_number_is_no_match():
    assert compared("", ("1", "nan"), float("nan"), 1.0).failed


def test_a_check_that_breaks_is_a_row_and_not_the_end():
    def work():
        yield compared("first", ("1", "1"), 0.0, 1.0)
        raise RuntimeError("no kernel image is available\nfor execution")

    first, broken = guarded("second", work)
    assert first.ended == "ok"
    assert broken.ended == "FAILED: RuntimeError: no kernel image is available for execution"


def _run(repo_root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", *map(str, arguments)]
    return subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_one_line_says_so(repo_root, tmp_path):
    done = _run(repo_root, "--output", tmp_path / "table.md")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is no GPU here that torch ")
    assert not (tmp_path / "table.md").exists()


def test_a_key_that_does_not_exist_is_no_difference(repo_root):
    done = _run(repo_root, "--device", "cpu", "--quick", "MODEL.PIXEL_MEEN", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "MODEL.PIXEL_MEEN" in done.stderr


def test_the_table_names_device_and_versions(repo_root, tmp_path):
    output = tmp_path / "new" / "table.md"
    done = _run(repo_root, "--device", "cpu", "--quick", "--only", "speed", "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output.read_text() + "\n"
    (rows,) = read_tables(done.stdout).values()
    assert all(word in done.stdout for word in ("On the CPU alone; CUDA", f"torch {torch.__version__.split('+')[0]}"))
    assert [(row["device"].split()[1], row["ended"]) for row in rows] == [("images/s,", "measured")] * 2


def test_a_difference_is_told_by_the_exit_code(repo_root):
    keys = OTHER.overrides
    done = _run(repo_root, "--device", "cpu", "--quick", "--only", "prediction", *keys)
    assert done.returncode == 1, done.stderr
    (rows,) = read_tables(done.stdout).values()
    assert "FAILED" in {row["ended"] for row in rows}
    assert "rows FAILED." in done.stdout


def test_each_part_has_checks():
    assert all(list(checks(small(CPU, CPU), [part])) for part in PARTS)
