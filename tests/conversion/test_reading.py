"""How often conversion opens the files of its input; the interpreter's audit events tell."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from drawing import discs, noise, write_sample, write_test_images

CONVERT = """
import sys
from pathlib import Path
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions

root, output, folds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).startswith(f"{root}/") and print(args[0]))
convert(root, output, ConvertOptions(tile_size=64, val_fraction=0.5, folds=folds))
"""


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcd":
        maps = {number: discs(rng, 50, 60, 6) for number in (1, 2)}
        write_sample(tmp_path / "in", name, noise(rng, 50, 60), maps, photometric="rgb")
    write_test_images(tmp_path / "in", {"t.tif": noise(rng, 30, 40)}, None)
    return tmp_path / "in"


def opened(root, output, folds=0):
    """Path below the input -> how often it was opened."""
    command = [sys.executable, "-c", CONVERT, str(root), str(output), str(folds)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return Counter(line.removeprefix(f"{root}/") for line in lines)


@pytest.mark.parametrize("folds", [0, 2])
def test_each_file_is_opened_once(root, tmp_path, folds):
    files = [str(path.relative_to(root)) for path in root.rglob("*.tif")]
    assert len(files) == 13
    assert opened(root, tmp_path / "out", folds) == dict.fromkeys(files, 1)
    written = json.loads((tmp_path / "out" / "annotations" / "instances_val_whole.json").read_text())
    assert len(written["images"]) == 2


def test_only_validation_images_of_several_tiles_are_opened_again(root, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("large1", "large2"):
        write_sample(root, name, noise(rng, 50, 100), {3: discs(rng, 50, 100, 6)}, photometric="rgb")
    found = opened(root, tmp_path / "out")
    (large,) = [
        name for name in json.loads((tmp_path / "out" / "dataset.json").read_text())["images"]["val"] if "l" in name
    ]
    twice = {f"train/{large}/image.tif", f"train/{large}/class3.tif"}
    assert {name for name, count in found.items() if count > 1} == twice
    assert max(found.values()) == 2
