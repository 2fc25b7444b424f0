"""The report before conversion: complete, the same however it is run, and of the numbers that conversion writes."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from drawing import discs, noise, read_folder, write_sample, write_test_images

from cellseg_d2.conversion.check import check, render
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError

OPTIONS = ConvertOptions(tile_size=32, class_names=("round", "flat"))


@pytest.fixture
def root(tmp_path):
    """Five good samples of two classes; b and d are the same image; two test images."""
    root, rng = tmp_path / "input", np.random.default_rng(2)
    for name in "abcde":
        image = noise(np.random.default_rng(7), 40, 50) if name in "bd" else noise(rng, 40, 50)
        maps = {1: discs(rng, 40, 50, 12), 2: discs(rng, 40, 50, 2)}
        write_sample(root, name, image, maps, photometric="rgb")
    write_test_images(root, {"s.tif": noise(rng, 20, 30), "t.tif": noise(rng, 20, 30)}, None)
    return root


def spoil(root):
    """Damages one file or more of three samples and a test image, and gives the files."""
    train = root / "train"
    (train / "a" / "image.tif").write_bytes(b"")
    tifffile.imwrite(train / "a" / "class2.tif", np.full((40, 50), 0.5, np.float32))
    tifffile.imwrite(train / "c" / "class1.tif", np.ones((40, 49), np.uint8))
    tifffile.imwrite(train / "c" / "class2.tif", np.ones((39, 50), np.uint8))
    (train / "e" / "image.tif").unlink()
    (root / "test_release" / "s.tif").write_bytes(b"II*\0")
    return ["a/class2", "a/image", "c/class1", "c/class2", "e/image"], "test_release/s"


def test_a_sound_dataset_has_no_problems(root):
    report = check(root, OPTIONS)
    assert report.summary["problems"] == []
    assert report.summary["images"]["count"] == 5
    assert report.test_images == 2


def test_every_problem_is_listed_by_its_file(root):
    labelled, test = spoil(root)
    problems = check(root, OPTIONS).summary["problems"]
    assert [line.split(": ")[0] for line in problems] == [f"{test}.tif", *(f"train/{name}.tif" for name in labelled)]
    summary = check(root, OPTIONS).summary
    assert summary["images"]["count"] == 2
    text = render(check(root, OPTIONS), "base.yaml")
    assert "- 6 files cannot be used" in text
    assert all(f"    {line}\n" in text for line in problems)


def test_all_images_may_be_unreadable(root):
    for path in (root / "train").glob("*/image.tif"):
        path.write_bytes(b"")
    report = check(root, OPTIONS)
    assert report.summary["images"]["count"] == 0
    assert len(report.summary["problems"]) == 5
    assert report.suggestions == {}
    assert "5 files cannot be used" in render(report, "base.yaml")


def test_a_mistake_in_the_id_file_is_a_problem_and_no_stop(root):
    (root / "test_image_name_to_ids.json").write_text("[]")
    report = check(root, OPTIONS)
    assert report.summary["images"]["count"] == 5
    (problem,) = report.summary["problems"]
    assert problem.startswith("test_image_name_to_ids.json: has no id for 's.tif'")


def test_a_sample_of_a_coco_file_is_a_problem_by_its_image(root, tmp_path):
    images = [
        {"id": n, "file_name": f"train/{name}/image.tif", "height": 40, "width": 50} for n, name in enumerate("ab")
    ]
    images[1]["height"] = 41
    cell = {"id": 1, "image_id": 0, "category_id": 3, "segmentation": [[2, 2, 12, 2, 12, 12]]}
    content = {"images": images, "annotations": [cell], "categories": [{"id": 3, "name": "nucleus"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    summary = check(root, ConvertOptions(), from_coco=tmp_path / "coco.json").summary
    assert (summary["images"]["count"], summary["cells"]["count"]) == (1, 1)
    assert [line.split(": ")[0] for line in summary["problems"]] == ["train/b/image.tif"]


@pytest.mark.parametrize("spoilt", [False, True])
def test_conversion_writes_the_same_numbers(root, tmp_path, spoilt):
    if spoilt:
        (root / "train" / "a" / "image.tif").write_bytes(b"")
    written = convert(root, tmp_path / "out", OPTIONS, skip_errors=True)
    assert written["statistics"] == check(root, OPTIONS).summary
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["statistics"] == written["statistics"]


def test_the_report_depends_on_no_worker_count_and_nothing_is_written(root, tmp_path):
    spoil(root)
    before = read_folder(tmp_path)
    one, two = check(root, OPTIONS), check(root, OPTIONS, workers=2)
    assert one == two
    assert render(one, "base.yaml") == render(two, "base.yaml")
    assert read_folder(tmp_path) == before


def test_no_samples_and_bad_options_are_errors(root, tmp_path):
    with pytest.raises(CellSegError, match="there is no such folder"):
        check(tmp_path / "nowhere", OPTIONS)
    with pytest.raises(CellSegError, match="tile_size must be at least 1"):
        check(root, ConvertOptions(tile_size=0))
    with pytest.raises(CellSegError, match="workers must be at least 1"):
        check(root, OPTIONS, workers=0)


def test_the_report_says_what_to_look_at(tmp_path):
    root, rng = tmp_path / "input", np.random.default_rng(3)
    first, second = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    first[2:6, 2:6] = 1  # a ring of 4 x 4 with a hole
    first[3:5, 3:5] = 0
    first[10:14, 10:14] = first[20:24, 20:24] = 2  # two blobs
    first[40:58, 4:56] = 3  # over the seam
    first[30, 30] = 4  # a speck
    second[40:42, 40:45] = 1  # 10 pixels on cell 3
    image = noise(rng, 60, 60)
    write_sample(root, "x", image, {1: first, 2: second}, photometric="rgb")
    write_sample(root, "y", image, {1: first}, photometric="rgb")
    write_sample(root, "z", noise(rng, 60, 60)[..., 0].astype(np.uint16), {})
    options = ConvertOptions(tile_size=32, class_names=("round", "flat", "long"))
    text = render(check(root, options), "base.yaml")
    for line in (
        "with 9 cells of 3 classes. Nothing was converted.",
        "x = y",
        "- Grey beside colour images, or several bit depths (see Formats below)",
        "Formats: 1 image of 16 bit (uint16), 1 channel; 2 images of 8 bit (uint8), 3 channels.",
        "- 10 pixels in cells of two classes or more. Each cell keeps them; is that meant?\n    (in x)",
        "- 2 cells of parts that do not touch. Each stays one cell; --split-blobs makes several.\n    (in x, y)",
        "- 2 cells with a hole",
        "- 2 cells under --min-area",
        "- 1 image without any cell",
        "- No image has a cell of long.",
        "- Only one image has cells of flat",
        "- 2 cells (22 %) cut by tiles",
        "- The longest cell is 52 px.",
        "Tiles of 32 px, overlap 0.0: 12, 6 with cells; 2 cells (22.2 %) cut by their edges.",
    ):
        assert line in text
    assert max(map(len, text.splitlines()[1:])) <= 120


def test_a_sound_dataset_is_told_so(root):
    (root / "train" / "d" / "image.tif").write_bytes((root / "train" / "a" / "image.tif").read_bytes())
    for name in "abcde":
        image, cells = noise(np.random.default_rng(ord(name)), 40, 50), np.zeros((40, 50), np.uint8)
        cells[2:9, 2:9], cells[12:19, 12:19] = 1, 2
        tifffile.imwrite(root / "train" / name / "image.tif", image, photometric="rgb")
        tifffile.imwrite(root / "train" / name / "class1.tif", cells)
        tifffile.imwrite(root / "train" / name / "class2.tif", np.roll(cells, 20, axis=0))
    text = render(check(root, ConvertOptions()), "base.yaml")
    assert "Please look at\n  nothing: all files can be read, and the labels look sound.\n" in text


def test_a_crowded_tile_says_which_limits_training_sets(tmp_path):
    cells = np.zeros((100, 100), np.uint16)
    cells[::4, ::4] = np.arange(1, 626).reshape(25, 25)
    write_sample(tmp_path, "a", noise(np.random.default_rng(0), 100, 100), {1: cells}, photometric="rgb")
    report = check(tmp_path, ConvertOptions(min_area=0))
    text = render(report, "base.yaml")
    assert "a tile has up to 625 cells, so 1250 detections, 2500 proposals (1250 in training)\n" in text
    assert re.search(r"^ +DETECTIONS_PER_IMAGE: -1$", text, re.MULTILINE)


def test_neither_torch_nor_detectron2_is_loaded(repo_root):
    code = "import sys; sys.modules.update(torch=None, detectron2=None); import cellseg_d2.conversion.check"
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True)
