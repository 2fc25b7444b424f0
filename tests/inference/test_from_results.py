"""Formats that are written later are those that prediction writes, byte by byte."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawing import discs, read_folder
from ground_truth_model import BlobModel

from cellseg_d2.commands import main
from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.formats import FORMATS, LATER_FORMATS
from cellseg_d2.images.listing import list_images
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.from_results import Results, export_results
from cellseg_d2.inference.predictor import WholeImagePredictor


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images with bright discs, one of them in a folder below, of half a micron a pixel."""
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(("a.ome.tif", "below/b.tif")):
        bright = discs(np.random.default_rng(number), 60, 80, 6, radius=9) > 0
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        stated = {"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}
        tifffile.imwrite(path, np.repeat((bright * 200).astype(np.uint8)[..., None], 3, 2), photometric="rgb", **stated)
    return list_images(folder, None)


@pytest.fixture
def predicted(images, tmp_path):
    """All formats, and the COCO results alone."""
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']"])
    every, coco = Output(tmp_path / "every", FORMATS, 0.85), Output(tmp_path / "coco", ("coco",), 0.85)
    for output in (every, coco):
        predict_images(WholeImagePredictor(BlobModel(), cfg), images, output)
    return every.folder, coco.folder


def test_all_formats_can_be_made_later_beside_the_results(predicted, images):
    every, coco = predicted
    results = Results.read(coco)
    counts = export_results(results, coco, LATER_FORMATS, results.selection, images)
    assert read_folder(coco) == read_folder(every)
    assert counts == {"nucleus": pd.read_csv(coco / "counts.csv")["cells"].sum()}
    assert 0 < counts["nucleus"] < sum(map(len, results.by_image.values()))  # the least score counts


def test_without_the_images_tables_have_no_intensities_and_other_files_are_the_same(predicted):
    every, coco = predicted
    results = Results.read(coco)
    export_results(results, coco, ("csv", "geojson"), results.selection)
    assert (coco / "geojson" / "below" / "b.geojson").read_bytes() == (every / "geojson/below/b.geojson").read_bytes()
    table, whole = (pd.read_csv(folder / "csv" / "a.csv") for folder in (coco, every))
    pd.testing.assert_frame_equal(table, whole[[name for name in whole.columns if not name.startswith("mean_")]])
    with pytest.raises(CellSegError, match="give them with --input"):
        export_results(results, coco, ("overlay",), results.selection)


def test_labelme_looks_for_an_image_where_it_was_predicted_or_beside_the_file(predicted, images):
    every, coco = predicted
    results = Results.read(coco)
    export_results(results, coco, ("labelme",), results.selection)
    for image in images:
        stem = image.file_name.removesuffix(".tif")
        path, beside = (json.loads((folder / "labelme" / f"{stem}.json").read_text()) for folder in (every, coco))
        assert (every / "labelme" / f"{stem}.json").parent.joinpath(path["imagePath"]).samefile(image.path)
        assert beside["imagePath"] == image.path.name


def test_cells_are_annotations_in_qupath_where_that_is_asked_for(predicted, images, tmp_path):
    every, coco = predicted
    output = Output(tmp_path / "annotations", ("coco", "geojson"), 0.85, object_type="annotation")
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']"])
    predict_images(WholeImagePredictor(BlobModel(), cfg), images, output)
    words = ["export", "--results", str(coco), "--formats", "geojson", "--as", "annotation"]
    assert main(words) == 0
    wanted = (every / "geojson" / "a.geojson").read_text().replace('"detection"', '"annotation"')
    for folder in (coco, output.folder):
        assert (folder / "geojson" / "a.geojson").read_text() == wanted


def test_other_least_scores_go_into_another_folder(predicted, tmp_path):
    _, coco = predicted
    results = Results.read(coco)
    low = replace(results.selection, min_score=0.1)
    with pytest.raises(CellSegError, match="other least scores; give another --output"):
        export_results(results, coco, ("csv",), low)
    counts = export_results(results, tmp_path / "low", ("csv",), low)
    assert counts["nucleus"] == sum(map(len, results.by_image.values()))
    record = json.loads((tmp_path / "low" / "prediction.json").read_text())
    assert record["selection"]["min_score"] == 0.1


def record(selection):
    return f'{{"class_names": ["a"], "selection": {selection}, "intensity_rule": "", "pixel_sizes_um": {{}}}}'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("prediction.json", None, r"prediction\.json: there is no such file; give --results a folder"),
        ("prediction.json", "{}", "is not what predict writes"),
        ("prediction.json", record('{"x": 1}'),
         "is not what predict writes"),
        ("prediction.json", record('{"iou": 7}'),
         "no way to leave out cells"),
        ("prediction.json", record('{"iou": ""}'),
         "is not what predict writes"),
        ("test-results.json", None, "predict with --formats coco"),
        ("test-results.json", '[{"image_id": 9}]', "has results of image 9, which image_ids.json lacks"),
        ("test-results.json", "[3]", "are not those that predict writes"),
        ("image_ids.json", '[{"file_name": "../../x.tif", "id": 1}]', "is not a plain file name"),
        ("image_ids.json", None, "cannot be read"),
    ],
)  # fmt: skip
def test_folders_that_are_no_results_are_refused_in_one_line(file, content, message, predicted):
    _, coco = predicted
    (coco / file).unlink()
    if content is not None:
        (coco / file).write_text(content)
    with pytest.raises(CellSegError, match=message):
        Results.read(coco)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("segmentation", {"size": [9, 9], "counts": "1"}, "a result of 'a.ome.tif' is damaged"),
        ("category_id", 2, r"of a category that is not in 1\.\.1"),
        ("score", None, "is damaged"),
    ],
)
def test_damaged_results_are_refused_in_one_line(key, value, message, predicted):
    _, coco = predicted
    content = json.loads((coco / "test-results.json").read_text())
    content[0][key] = value
    (coco / "test-results.json").write_text(json.dumps(content))
    results = Results.read(coco)
    with pytest.raises(CellSegError, match=message):
        export_results(results, coco, ("csv",), results.selection)


def test_images_of_other_names_or_sizes_are_refused(predicted, images, tmp_path):
    _, coco = predicted
    results = Results.read(coco)
    with pytest.raises(CellSegError, match=r"below/b\.tif: is not among the images"):
        export_results(results, coco, ("overlay",), results.selection, images[:1])
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((9, 9), np.uint8))
    other = list_images(tmp_path / "a.ome.tif", None)
    with pytest.raises(CellSegError, match=r"a\.ome\.tif: is 9 x 9"):
        export_results(results, coco, ("overlay",), results.selection, other)


def test_the_command_runs_without_torch(predicted, images, repo_root):
    every, coco = predicted
    code = "import sys; sys.modules.update(torch=None, detectron2=None)\n"
    code += "from cellseg_d2.commands import main; sys.exit(main(sys.argv[1:]))"
    words = ["export", "--results", coco, "--formats", *LATER_FORMATS, "--input", images[0].path.parent]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=repo_root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cells = pd.read_csv(coco / "counts.csv")["cells"].sum()
    assert done.stdout == f"2 images: {cells} nucleus\nresults: {coco}\n"
    assert read_folder(coco) == read_folder(every)
