"""The command ``export``: from results or from weights, and never both."""

import os
import subprocess
import sys

import pytest

from cellseg_d2.commands import export
from cellseg_d2.errors import CellSegError


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give either --results DIR, to write other formats from results, or --weights CKPT"),
        (["--results", "r", "--weights", "nuclei"], "give either --results DIR"),
        (["--results", "r"], "--results needs --formats"),
        (["--results", "r", "--formats", "csv", "--name", "x"], "--name goes with --weights, not with --results"),
        (["--results", "r", "--formats", "csv", "--overwrite"], "--overwrite goes with --weights, not with --results"),
        (["--results", "r", "--formats", "csv", "MODEL.DEVICE", "cpu"], "MODEL.DEVICE goes with --weights"),
        (["--weights", "nuclei"], "--weights needs --output"),
        (["--weights", "nuclei", "--output", "m", "--formats", "csv"], "--formats goes with --results"),
        (["--weights", "nuclei", "--output", "m", "--as", "annotation"], "--as goes with --results"),
        (["--weights", "nuclei", "--output", "m", "--min-score", "0"], "--min-score goes with --results"),
        (["--weights", "nuclei", "--output", "m", "--thresholds", "t"], "--thresholds goes with --results"),
        (["--weights", "nuclei", "--output", "m", "--input", "a", "b"], "--weights takes one image as --input"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CellSegError, match=message):
        export.main(words)
    assert not list(tmp_path.iterdir())


def test_a_model_is_written_once_and_replaced_when_asked(repo_root, sample_root, tmp_path):
    image = next((sample_root / "test_release").glob("*.tif"))
    words = ["--weights", "nuclei", "--output", "model", "--input", image]

    def run(*more):
        command = [sys.executable, "-m", "cellseg_d2", "export", *map(str, [*words, *more])]
        environment = {**os.environ, "PYTHONPATH": str(repo_root)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    done = run("--name", "My model", "CELLSEG.INFERENCE.TILE_SIZE", 256)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model: model; it finds ")
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"network.onnx", "model.json", "run.py", "rdf.yaml", "README.md", "cover.png"} < files
    assert '"tile_size": 256' in (tmp_path / "model" / "model.json").read_text()
    assert "name: My model" in (tmp_path / "model" / "rdf.yaml").read_text()
    again = run()
    assert again.returncode == 2 and "holds a model already" in again.stderr
    replaced = run("--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == files
    assert '"tile_size": 512' in (tmp_path / "model" / "model.json").read_text()
