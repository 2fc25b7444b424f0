"""The README's first command, in its quick form."""

import json
import os
import subprocess

import cv2


def test_the_demo_runs_to_the_end_and_says_where_everything_lies(repo_root, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", "ITERATIONS=20", f"DEMO_OUTPUT={tmp_path}"],
        cwd=repo_root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    summary = done.stdout[done.stdout.rindex("Done in ") :]
    assert f"mask AP50 on the 25 test images   {metrics['segm']['AP50']:.1f}" in summary
    results = ("predictions/test-results.json", "predictions/overlays", "model/model_best.pth")
    for name in (*results, "evaluation.html", "training.html"):
        assert (tmp_path / name).exists()
        assert str(tmp_path / name) in summary
    assert "Nuclei found without any training, after " in done.stdout
    for name in ("nuclei.png", "curves.png", "augmentation.png", "predictions.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 10
        assert str(tmp_path / name) in summary
