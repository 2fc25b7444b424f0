"""tools/import_monusac.py as a user runs it, and the conversion that follows it."""

import json
from collections import Counter

import numpy as np
import pytest
from drawing import noise
from monusac_files import box, write_pair

CLASSES = ["Epithelial", "Lymphocyte", "Neutrophil", "Macrophage"]


@pytest.fixture
def root(tmp_path):
    """Two images each of four patients, with a cell of every class and an ambiguous region."""
    rng = np.random.default_rng(0)
    for patient in range(4):
        slide = f"TCGA-AA-000{patient}-01Z-00-DX1"
        for number in (1, 2):
            cells = {name: [box(30 * place, 5, 30 * place + 12, 20)] for place, name in enumerate(CLASSES)}
            outlines = {**cells, "Ambiguous": [box(10, 40, 50, 60)]}
            write_pair(tmp_path / "set" / slide, f"{slide}_00{number}", noise(rng, 70, 120), outlines)
    return tmp_path / "set"


def test_imported_files_are_converted_with_patients_apart_and_ambiguous_regions_ignored(run_tool, root, tmp_path):
    process = run_tool("import_monusac", "--input", root, "--output", tmp_path / "in")
    assert process.returncode == 0, process.stderr
    first, following = process.stdout.splitlines()
    assert first == ("8 images of 4 patients: 8 Epithelial, 8 Lymphocyte, 8 Neutrophil, 8 Macrophage, 8 Ambiguous")
    command = following.removeprefix("next: cellseg-d2 convert ").split()
    assert command[-2:] == ["--output", "datasets/monusac"]
    process = run_tool("convert_tifs", *command, "--workers", 1, cwd=tmp_path)
    assert process.returncode == 0, process.stderr

    folder = tmp_path / "datasets" / "monusac"
    summary = json.loads((folder / "dataset.json").read_text())
    assert summary["class_names"] == CLASSES
    parts = {part: {image[:12] for image in images} for part, images in summary["images"].items()}
    assert len(parts["train"]) + len(parts["val"]) == 4
    assert parts["val"] and not parts["train"] & parts["val"]
    for name in ("train", "val", "val_whole"):
        content = json.loads((folder / "annotations" / f"instances_{name}.json").read_text())
        kinds = Counter((a["category_id"], a["iscrowd"], a["area"]) for a in content["annotations"])
        count = len(content["images"])
        assert kinds == {(k, crowd, area): count for k in range(1, 5) for crowd, area in ((0, 180), (1, 800))}


def test_bad_input_is_one_line(run_tool, root, tmp_path):
    damaged = next(root.rglob("*.xml"))
    damaged.write_text("<Annotations>")
    process = run_tool("import_monusac", "--input", root, "--output", tmp_path / "in")
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {damaged}: is damaged (no element found")
    assert not (tmp_path / "in").exists()


def test_an_unknown_class_can_be_taken_for_ambiguous(run_tool, tmp_path):
    write_pair(tmp_path / "set" / "p", "a", noise(np.random.default_rng(0), 20, 30), {"1": [box(2, 2, 9, 9)]})
    process = run_tool("import_monusac", "--input", tmp_path / "set", "--output", tmp_path / "in")
    assert process.returncode == 2
    assert "outlines of the class '1'" in process.stderr and "--unknown ambiguous" in process.stderr
    process = run_tool(
        "import_monusac", "--input", tmp_path / "set", "--output", tmp_path / "in", "--unknown", "ambiguous"
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("1 image of 1 patient: 1 Ambiguous\n")
