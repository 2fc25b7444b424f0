"""Pictures of labels and of augmentation, drawn by the command."""

import cv2
import pytest


@pytest.mark.parametrize("samples", ["0", "-1", "two"])
def test_a_picture_has_rows(samples, run_tool, sample_root, tmp_path):
    options = ("--input", sample_root, "--output", tmp_path / "picture.png", "--samples", samples)
    done = run_tool("visualize", "dataset", *options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "--samples" in error


def test_a_dataset_is_drawn_before_it_is_converted(run_tool, sample_root, tmp_path):
    options = ("--input", sample_root, "--output", tmp_path / "picture.png", "--samples", "2")
    done = run_tool("visualize", "dataset", *options, "--class-names", "a", "b", "c", "d")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"picture: {tmp_path / 'picture.png'}\n"
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 10


def test_augmentation_is_drawn(run_tool, nuclei, repo_root, tmp_path):
    done = run_tool(
        *("visualize", "augmentation", "--config-file", "mask_rcnn_lite0_FPN", "--samples", "2"),
        *("--augmentations", "3", "--output", tmp_path / "picture.png", "CELLSEG.DATASET", "nuclei"),
        cwd=repo_root,
        DETECTRON2_DATASETS=str(nuclei.parent),
    )
    assert done.returncode == 0, done.stderr
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture.shape[1] > picture.shape[0] > 256
    assert picture.std() > 10
