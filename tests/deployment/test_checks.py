"""What cannot be exported is refused in one line before anything is written."""

import os
import subprocess
import sys

import pytest

from cellseg_d2.deployment.checks import NEEDED, check_exportable, described_name
from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.checkpoint import WeightsFile


@pytest.mark.parametrize(
    "key, value",
    [("TTA.ENABLED", True), ("SUPPRESS_RESULTS", True), ("SKIP_BACKGROUND", True), ("SUPPRESSION", "soft")],
)
def test_what_an_exported_model_cannot_do_is_refused(key, value):
    cfg = WeightsFile.read("nuclei").cfg()
    check_exportable(cfg)
    cfg.merge_from_list([f"CELLSEG.INFERENCE.{key}", value])
    with pytest.raises(CellSegError, match=f"an exported model has no CELLSEG.INFERENCE.{key} {value}; add"):
        check_exportable(cfg)


def test_models_of_other_channels_are_refused():
    cfg = WeightsFile.read("nuclei").cfg()
    cfg.CELLSEG.CHANNELS = ["DAPI", "CD3"]
    with pytest.raises(CellSegError, match="takes RGB images, not the channels DAPI, CD3"):
        check_exportable(cfg)


@pytest.mark.parametrize("package", NEEDED)
def test_a_missing_package_is_named(package, repo_root, tmp_path):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from cellseg_d2.commands import main; "
        "sys.exit(main(['export', '--weights', 'nuclei', '--output', 'model']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: {package} is not installed; pip install 'cellseg_d2[deploy]'\n")
    assert not list(tmp_path.iterdir())


def test_names_are_those_that_bioimage_io_allows():
    assert described_name(None, "output/my.run/model_0.9µ.pth") == "model_0_9_ by cellseg_d2"
    assert described_name("Nuclei (2+)", "nuclei") == "Nuclei (2+)"
    for name in ("a.b.c.d", "abc", "a" * 129, ""):
        with pytest.raises(CellSegError, match="is no name for bioimage"):
            described_name(name, "nuclei")
