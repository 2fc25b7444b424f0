import numpy as np
import pytest

from cellseg_d2.commands import trial
from cellseg_d2.errors import CellSegError


def test_each_image_has_its_nuclei_apart_from_each_other():
    for seed in range(trial.IMAGES):
        image, labels = trial.draw(seed)
        assert (image.shape, image.dtype) == ((trial.SIDE, trial.SIDE, 3), np.uint8)
        assert np.unique(labels).tolist() == list(range(len(trial.CENTRES) + 1))
        assert image[labels > 0].min() > image[labels == 0].max()


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path):
    with pytest.raises(
        CellSegError, match=r"^convert ended with exit code 2: error: .*no_such/train: there is no such"
    ):
        trial.run("convert", "--input", tmp_path / "no_such", "--output", tmp_path / "out")


def test_a_command_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(trial, "LONGEST", 0.01)
    with pytest.raises(CellSegError, match=r"^doctor was not done after 0\.01 s"):
        trial.run("doctor")


def test_whatever_a_step_raises_is_a_failed_trial(tmp_path):
    def step(folder):
        raise AttributeError("module 'numpy' has no attribute 'bool8'\nand more")

    tried = trial.try_step("look", step, tmp_path)
    assert not tried.passed
    assert tried.line().startswith("look: FAILED after 0.0 s, AttributeError: module 'numpy' has no attribute 'bool8'")
    assert "\n" not in tried.line()
