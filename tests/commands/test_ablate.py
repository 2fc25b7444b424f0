"""A study as a user runs it: real trainings of two iterations on a few of the sample's images."""

import json
import shutil

import cv2
import pytest

IMAGES, TESTS = 8, 2
QUICK = [
    *("--iterations", "2", "--workers", "1", "INPUT.CROP.SIZE", "[96, 96]", "SOLVER.IMS_PER_BATCH", "2"),
    *("DATALOADER.NUM_WORKERS", "0", "TEST.DETECTIONS_PER_IMAGE", "50"),
]


@pytest.fixture(scope="module")
def few(sample_root, tmp_path_factory):
    """A part of the sample, in its layout."""
    root = tmp_path_factory.mktemp("few")
    for folder in sorted((sample_root / "train").iterdir())[:IMAGES]:
        shutil.copytree(folder, root / "train" / folder.name)
    ids = json.loads((sample_root / "test_image_name_to_ids.json").read_text())[:TESTS]
    (root / "test_image_name_to_ids.json").write_text(json.dumps(ids))
    (root / "test_release").mkdir()
    for entry in ids:
        shutil.copy(sample_root / "test_release" / entry["file_name"], root / "test_release")
    truth, kept = json.loads((sample_root / "test_gt.json").read_text()), {entry["id"] for entry in ids}
    truth["images"] = [image for image in truth["images"] if image["id"] in kept]
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["image_id"] in kept]
    (root / "test_gt.json").write_text(json.dumps(truth))
    return root


@pytest.fixture(scope="module")
def ablate(run_tool, few, tmp_path_factory):
    output = tmp_path_factory.mktemp("studies")

    def run(study, *arguments):
        return run_tool("ablate", "--study", study, "--data", few, "--output", output, *arguments), output

    return run


@pytest.fixture(scope="module")
def studied(ablate):
    done, output = ablate("augmentation", *QUICK)
    assert done.returncode == 0, done.stderr
    return done, output


def test_a_study_leaves_runs_a_table_and_a_figure(studied):
    done, output = studied
    text = (output / "augmentation.md").read_text()
    assert text in done.stdout
    assert f"figure: {output / 'augmentation.png'}" in done.stdout
    assert "2 iterations per run, seeds per arm: 1." in text
    assert "cellseg-d2 ablate --study augmentation" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["flips", "full augmentation"]
    assert all(0 <= float(row[1]) <= 100 and 0 <= float(row[2]) <= 100 and float(row[4]) > 0 for row in rows[2:])
    picture = cv2.imread(str(output / "augmentation.png")).astype(int)
    assert ((picture.max(axis=2) - picture.min(axis=2)) > 60).sum() > 500  # curves; text and axes are grey
    for arm in ("flips", "full"):
        files = {path.name for path in (output / "augmentation" / arm / "seed1").iterdir()}
        assert {"model_best.pth", "model_final.pth", "metrics.json", "settings.json", "result.json"} <= files
        assert not [name for name in files if name.startswith("model_0")]


def test_what_is_there_is_not_trained_again_and_serves_other_studies(studied, ablate):
    _, output = studied
    kept = [output / "augmentation" / arm / "seed1" / "result.json" for arm in ("flips", "full")]
    before = [path.stat().st_mtime_ns for path in kept]
    (output / "augmentation.png").unlink()
    done, _ = ablate("augmentation", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "training" not in done.stderr
    assert (output / "augmentation.png").is_file()
    assert [path.stat().st_mtime_ns for path in kept] == before

    # stopped after its last evaluation: only the test images are left; its other arm is one of the first study
    original = output / "recipe" / "original" / "seed1"
    done, _ = ablate("recipe", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "recipe/plugin/seed1 (2 of 2): is the same as augmentation/full/seed1" in done.stderr
    result = json.loads((output / "recipe" / "plugin" / "seed1" / "result.json").read_text())
    assert result == {**json.loads(kept[1].read_text()), "trained_in": "augmentation/full/seed1"}
    (original / "result.json").unlink()
    weights = (original / "model_final.pth").stat().st_mtime_ns
    done, _ = ablate("recipe", *QUICK)
    assert done.returncode == 0, done.stderr
    assert (original / "result.json").is_file()
    assert (original / "model_final.pth").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--iterations", "3", *QUICK[2:]], "seed1: holds a run of other settings (SOLVER.MAX_ITER)"),
        ([*QUICK, "SOLVER.NO_SUCH_KEY", "3"], "NO_SUCH_KEY"),
        (["--study", "scheduler", *QUICK], "2 iterations are too few for a learning rate of 2 steps"),
    ],
    ids=["other settings", "unknown key", "too short"],
)
def test_a_study_refuses_in_one_line(arguments, named, studied, ablate):
    done, _ = ablate("augmentation", *arguments)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in done.stderr


def test_a_failed_training_is_named(ablate, studied):
    done, output = ablate("anchors", *QUICK, "MODEL.WEIGHTS", "nowhere.pth")
    assert done.returncode == 2
    log = output / "anchors" / "coco" / "seed1" / "train.log"
    assert "error: train ended with exit code 2: error: nowhere.pth" in done.stderr
    assert str(log) in done.stderr
