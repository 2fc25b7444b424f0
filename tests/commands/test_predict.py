"""Prediction with the published weights as a user runs it: a batch with an image that cannot be read."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image


@pytest.fixture
def batch(sample_root, tmp_path):
    """A real image, and in a folder below one that is cut off."""
    image = sample_root / "test_release" / "7d40ea6ead1b.tif"
    (tmp_path / "batch" / "below").mkdir(parents=True)
    (tmp_path / "batch" / "good.tif").write_bytes(image.read_bytes())
    (tmp_path / "batch" / "below" / "cut.tif").write_bytes(image.read_bytes()[:300])
    return tmp_path / "batch"


def predict(run_tool, batch, output, *options):
    words = ("--weights", "nuclei", "--input", batch, "--output", output, "--formats", "csv", *options)
    return run_tool("predict", *words, CUDA_VISIBLE_DEVICES="")


def test_skipping_ends_well_with_a_warning_and_a_list(run_tool, batch, tmp_path):
    done = predict(run_tool, batch, tmp_path / "out", "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    skipped, reason = done.stderr.splitlines()[-2:]
    assert skipped == f"WARNING 1 image could not be read and left out, see {tmp_path / 'out' / 'skipped.json'}"
    assert reason.startswith(f"WARNING left out: {batch / 'below' / 'cut.tif'}: ")
    (entry,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert (entry["file_name"], f"WARNING left out: {entry['reason']}") == ("below/cut.tif", reason)
    cells = len(pd.read_csv(tmp_path / "out" / "csv" / "good.csv"))
    assert done.stdout.startswith(f"1 image: {cells} nucleus\nresults: {tmp_path / 'out'}\n")
    assert pd.read_csv(tmp_path / "out" / "counts.csv")["cells"].tolist() == [cells]


def test_by_default_the_image_ends_the_run_in_one_line(run_tool, batch, tmp_path):
    done = predict(run_tool, batch, tmp_path / "out")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO ")] == [
        f"error: {batch / 'below' / 'cut.tif'}: ends after 300 of 73333 bytes; copy or export it again"
    ]


def test_a_region_restricts_prediction_and_its_share_is_told(run_tool, batch, tmp_path):
    image = batch / "good.tif"
    with tifffile.TiffFile(image) as file:
        height, width = file.pages[0].shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    Image.fromarray(mask).save(tmp_path / "region.png")
    done = predict(run_tool, image, tmp_path / "out", "--region", tmp_path / "region.png")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "csv" / "good.csv")
    found, region = done.stdout.splitlines()[:2]
    assert (found, region) == (
        f"1 image: {len(table)} nucleus",
        f"region: {100 * (mask > 0).mean():.3g} % of the image",
    )
    whole = predict(run_tool, image, tmp_path / "whole")
    assert 0 < len(table) < len(pd.read_csv(tmp_path / "whole" / "csv" / "good.csv")), whole.stderr


def test_a_region_of_another_size_is_one_line(run_tool, batch, tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "region.png")
    done = predict(run_tool, batch / "good.tif", tmp_path / "out", "--region", tmp_path / "region.png")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {tmp_path / 'region.png'}: is 20 x 30, its image ")


def test_no_process_waits_for_a_first_one_that_is_refused(run_tool, batch, tmp_path):
    """A later process of several sees itself that the folder holds results; Slurm would let it wait."""
    out = tmp_path / "out"
    assert predict(run_tool, batch / "good.tif", out).returncode == 0
    words = ("--weights", "nuclei", "--input", batch / "good.tif", "--output", out)
    second = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    done = run_tool("predict", *words, **second, MASTER_ADDR="127.0.0.1", MASTER_PORT="29501", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {out}: holds ")
