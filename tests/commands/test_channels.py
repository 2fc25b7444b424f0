"""Multiplexed images from conversion to tables, with a real training: a channel that carries the class is learnt."""

import csv
import shutil

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.utils.env import seed_all_rng
from drawing import read_folder
from multiplexed import CHANNEL_OPTIONS, NAMES, write_multiplexed
from pages import Page, read_picture

import cellseg_d2
from cellseg_d2.cells.selection import Selection
from cellseg_d2.commands import audit, convert, export, predict, rank, visualize
from cellseg_d2.commands import report as report_command
from cellseg_d2.engine.run_config import build_cfg, prediction_cfg
from cellseg_d2.engine.trainer import CellTrainer
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.cell_metrics import F1_NAMES
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.evaluation.report_tables import summary_rows
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.overlay import draw_overlay
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.inference.one_image import segment
from cellseg_d2.inference.predictor import WholeImagePredictor

QUICK = [
    *("MODEL.DEVICE", "cpu", "SEED", "1", "DATALOADER.NUM_WORKERS", "0", "INPUT.CROP.SIZE", "[64, 64]"),
    *("SOLVER.IMS_PER_BATCH", "1", "SOLVER.BASE_LR", "0.02", "SOLVER.MAX_ITER", "120", "SOLVER.WARMUP_ITERS", "5"),
    *("SOLVER.AMP.ENABLED", "False", "TEST.EVAL_PERIOD", "0", "TEST.DETECTIONS_PER_IMAGE", "50"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "100"),
    *("CELLSEG.SHAPE_CLASSIFIER", "False", "CELLSEG.AUG.SCALE_LIMIT", "0.2"),  # the shapes say nothing here
    # with SGD fewer steps do, as the first convolution has to learn the new channels
    *("CELLSEG.OPTIMIZER", "sgd", "SOLVER.WEIGHT_DECAY", "0.0001", "CELLSEG.LOSS.BOX_CLS_WEIGHT", "2.0"),
    *("CELLSEG.BOX_SIZE_INPUT", "True"),
]
"""From the published weights of RGB to two classes of four cells a tile, in a few seconds."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("multiplexed")
    write_multiplexed(root / "input", images=12, side=64, columns=2)
    for count in (3, 4):
        options = ["--channels", *NAMES[:count], "--val-fraction", "0.3", "--workers", "1"]
        convert.main(["--input", str(root / "input"), "--output", str(root / "datasets" / f"marked{count}"), *options])
    cellseg_d2.setup(root / "datasets")
    return root


def trained(root, count):
    """The checkpoint of a training on the first channels."""
    output = root / f"output{count}"
    output.mkdir()
    cfg = build_cfg("finetune_nuclei", ["CELLSEG.DATASET", f"marked{count}", "OUTPUT_DIR", str(output), *QUICK])
    seed_all_rng(cfg.SEED)
    trainer = CellTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return output / "model_final.pth"


@pytest.fixture(scope="module")
def four(root):
    return trained(root, 4)


def predicted(weights, source, output, *options):
    """What ``predict`` writes."""
    predict.main(["--weights", str(weights), "--input", str(source), "--output", str(output), *options])
    return output


def class_f1(root, weights, count):
    """F1 at an IoU of 0.5, mean over the classes, of the whole validation images."""
    dataset = root / "datasets" / f"marked{count}"
    found = predicted(weights, dataset / "val_whole", root / f"found{count}", "--formats", "coco", "csv", "overlay")
    truth, results = read_json(dataset / "annotations" / "instances_val_whole.json"), []
    ids = {image["file_name"].rpartition("/")[2]: image["id"] for image in truth["images"]}
    names = {image["id"]: ids[image["file_name"]] for image in read_json(found / "image_ids.json")}
    for result in read_json(found / "test-results.json"):
        results.append({**result, "image_id": names[result["image_id"]]})
    judged = judge_results(truth, results, max_detections=50, selection=Selection(class_names(truth)))
    summary = dict(summary_rows(judged.cells))
    return float(summary[F1_NAMES[0]]), float(summary["detection_F1"])


def test_images_are_ranked_by_the_models_channels(four, root):
    source = sorted((root / "input").rglob("image.tif"))[:2]
    command = ["--weights", str(four), "--input", *map(str, source), "--output", str(root / "ranked")]
    rank.main(command)
    with (root / "ranked" / "ranking.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert [is_grey(picture) for picture in pictures(root / "ranked" / "ranking.html")] == [False, False]
    rank.main([*command, "--overwrite", "CELLSEG.SHOWN_CHANNELS", str([NAMES[3]])])
    assert [is_grey(picture) for picture in pictures(root / "ranked" / "ranking.html")] == [True, True]


def pictures(page):
    """Those that a page shows, (H, W, 3) RGB."""
    return [read_picture(address) for address in Page(page).values("image", "href")]


def is_grey(picture):
    return bool((picture == picture[..., :1]).all())


@pytest.fixture(scope="module")
def planted(root):
    """A dataset with two errors: a cell of ``image3`` has no label, one of ``image5`` the other class."""
    shutil.copytree(root / "input", root / "planted")
    dropped, swapped = (root / "planted" / "train" / name for name in ("image3", "image5"))
    first, second = (tifffile.imread(swapped / f"class{number}.tif") for number in (1, 2))
    cell = first == first.max()
    tifffile.imwrite(swapped / "class1.tif", np.where(cell, 0, first))
    tifffile.imwrite(swapped / "class2.tif", np.where(cell, first, second))
    labels = tifffile.imread(dropped / "class2.tif")
    tifffile.imwrite(dropped / "class2.tif", np.where(labels == labels.max(), 0, labels))
    options = ["--channels", *NAMES, "--workers", "1", "--tile-size", "48", "--keep-empty"]
    convert.main(["--input", str(root / "planted"), "--output", str(root / "datasets" / "planted"), *options])
    return root / "datasets" / "planted"


LEAST = "0.1"
"""A training of seconds is not sure of a class."""

PLANTED = [("missing", "image3", "", "class2"), ("wrong class", "image5", "class2", "class1")]


def doubts_of(output):
    doubts = read_json(output / "audit.json")["doubts"]
    return sorted((doubt["kind"], doubt["image"], doubt["labelled"], doubt["predicted"]) for doubt in doubts)


def test_labels_are_audited_by_the_models_channels(four, root, planted, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(planted.parent))
    common = ["--dataset", "planted", "--weights", str(four), "--min-score", LEAST, "--output"]
    audit.main([*common, str(root / "audited")])
    assert doubts_of(root / "audited") == PLANTED
    names = sorted(path.name for path in (root / "audited" / "geojson").iterdir())
    assert names == ["image3.geojson", "image5.geojson"]
    assert [is_grey(picture) for picture in pictures(root / "audited" / "audit.html")] == [False, False]
    audit.main([*common, str(root / "grey"), "CELLSEG.SHOWN_CHANNELS", "['Ki67']"])
    assert doubts_of(root / "grey") == PLANTED
    assert [is_grey(picture) for picture in pictures(root / "grey" / "audit.html")] == [True, True]


def test_labels_are_audited_by_results(four, root, planted, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(planted.parent))
    (root / "all").mkdir()
    for folder in (root / "planted" / "train").iterdir():
        (root / "all" / f"{folder.name}.tif").symlink_to(folder / "image.tif")
    found = predicted(four, root / "all", root / "all_found", "--formats", "coco", "--show-channels", "CD8")
    results = str(found / "test-results.json")
    common = ["--dataset", "planted", "--predictions", results, "--min-score", LEAST, "--output"]
    audit.main([*common, str(root / "audited_results")])
    assert doubts_of(root / "audited_results") == PLANTED
    assert [is_grey(picture) for picture in pictures(root / "audited_results" / "audit.html")] == [True, True]


def test_a_model_of_other_channels_than_the_dataset_is_refused(four, root, planted, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(planted.parent))
    common = ["--output", str(root / "refused"), "--dataset"]
    message = r"takes 4 channels \(DAPI, CD3, CD8, Ki67\), the images of the dataset have 3 channels \(DAPI, CD3, CD8\)"
    with pytest.raises(CellSegError, match=message):
        audit.main([*common, "marked3", "--weights", str(four)])
    message = r"nuclei: takes 3 channels \(RGB\), the images of the dataset have 4 channels .* with CELLSEG\.CHANNELS$"
    with pytest.raises(CellSegError, match=message):
        audit.main([*common, "planted", "--weights", "nuclei"])
    with pytest.raises(CellSegError, match=r"takes 3 channels \(1, 2, 3\), the images of the dataset have 4 channels"):
        audit.main([*common, "planted", "--weights", "nuclei", "CELLSEG.CHANNELS", "['1', '2', '3']"])
    assert not (root / "refused").exists()


def test_a_model_of_rgb_audits_the_channel_that_it_is_given(root, planted, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(planted.parent))
    common = ["--dataset", "planted", "--weights", "nuclei", "--output", str(root / "nuclei")]
    audit.main([*common, "--min-score", "0.2", "CELLSEG.CHANNELS", "['DAPI']"])
    assert ("missing", "image3", "", "nucleus") in doubts_of(root / "nuclei")


def test_a_channel_that_carries_the_class_lifts_its_f1(root, four):
    with_it, found = class_f1(root, four, 4)
    without, found_without = class_f1(root, trained(root, 3), 3)
    assert min(found, found_without) > 90  # both find the cells; what they are, only the fourth channel says
    assert with_it > max(80, without + 30)


@pytest.fixture(scope="module")
def source(root):
    """An image with a fifth channel, in another order."""
    pixels = tifffile.imread(root / "input" / "train" / "image0" / "image.tif")
    folder = root / "more"
    folder.mkdir()
    options = {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": [*NAMES[::-1], "CD20"]}}}
    tifffile.imwrite(folder / "image.ome.tif", np.concatenate([pixels[::-1], pixels[:1] // 2]), **options)
    return folder / "image.ome.tif"


def test_prediction_finds_its_channels_by_name_and_everything_follows(root, four, source):
    plain = root / "input" / "train" / "image0" / "image.tif"
    first = predicted(four, plain, root / "plain", "--formats", "coco", "csv", "overlay")
    other = predicted(
        four, source, root / "other", "--formats", "coco", "csv", "overlay", "--show-channels", "Ki67", "CD3"
    )
    assert read_json(first / "test-results.json") == read_json(other / "test-results.json")
    with (other / "csv" / "image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [name for name in rows[0] if name.startswith("mean_")] == [f"mean_{name}" for name in NAMES]
    striped = {row["class"]: float(row["mean_Ki67"]) for row in rows}
    assert striped["class2"] > striped["class1"] + 50
    image = read_whole(source, PixelRule(INTENSITY_RULE, ("Ki67", "CD3")))
    shown = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    found = WholeImagePredictor.from_checkpoint(four)
    cells = found.confident(found.predict(read_whole(source, found.pixel_rule)))
    assert len(rows) == len(cells) == 4
    drawn = cv2.imread(str(other / "overlays" / "image.png"))[..., ::-1]
    assert np.array_equal(drawn[: len(shown)], draw_overlay(stretched(shown), cells))  # the legend is below


def test_a_range_per_channel_is_that_of_the_model(root, four, tmp_path):
    """An image whose channels are of other strengths, by which the ranges make them what they were."""
    image = root / "input" / "train" / "image0" / "image.tif"
    factors = np.array([1, 257, 20, 4], np.uint16)[:, None, None]
    tifffile.imwrite(tmp_path / "image.tif", tifffile.imread(image) * factors, **CHANNEL_OPTIONS)
    rule = ("CELLSEG.INTENSITY_RULE", "range:0,255/0,65535/0,5100/0,1020")
    found = predicted(four, tmp_path / "image.tif", tmp_path / "found", "--formats", "coco", "csv", *rule)
    plain = predicted(four, image, tmp_path / "plain", "--formats", "coco", "csv")
    assert read_json(found / "test-results.json") == read_json(plain / "test-results.json")
    assert (found / "csv" / "image.csv").read_bytes() == (plain / "csv" / "image.csv").read_bytes()
    again = ["--results", str(found), "--input", str(tmp_path / "image.tif"), "--output", str(tmp_path / "again")]
    export.main([*again, "--formats", "csv"])
    assert (tmp_path / "again" / "csv" / "image.csv").read_bytes() == (found / "csv" / "image.csv").read_bytes()
    with pytest.raises(CellSegError, match="has 2 ranges, one per channel, but the images have 4 channels"):
        predicted(four, image, tmp_path / "other", "CELLSEG.INTENSITY_RULE", "range:0,1/0,2")


def test_files_made_later_are_the_same(root, four, source):
    results = predicted(
        four, source, root / "results", "--formats", "coco", "csv", "overlay", "--show-channels", "Ki67"
    )
    again = root / "again"
    export.main(
        ["--results", str(results), "--input", str(source), "--formats", "csv", "overlay", "--output", str(again)]
    )
    for part in ("csv", "overlays"):
        assert read_folder(again / part) == read_folder(results / part)


def test_test_time_augmentation_takes_all_channels(root, four, source):
    found = predicted(
        four, source, root / "views", "--tta", "--formats", "coco", "CELLSEG.INFERENCE.TTA.SCALES", "[1.5]"
    )
    assert read_json(found / "test-results.json")


def test_an_image_that_lacks_a_channel_is_one_line_with_both_numbers(root, four, tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    message = r"rgb\.tif: has 3 channels \(red, green, blue\), but no channel 'DAPI', one of the 4 that are wanted"
    with pytest.raises(CellSegError, match=message):
        predicted(four, tmp_path / "rgb.tif", tmp_path / "found")


def test_arrays_have_the_channels_of_the_model(root, four, tmp_path):
    pixels = np.moveaxis(tifffile.imread(root / "input" / "train" / "image0" / "image.tif"), 0, 2)
    found = segment(pixels, four, output=tmp_path, formats=("csv", "overlay"))
    assert len(found) == 4
    assert np.array_equal(found.image, pixels[..., :3])
    assert "mean_Ki67" in (tmp_path / "csv" / "image.csv").read_text().splitlines()[0]
    with pytest.raises(
        ValueError, match=r"of the model's 4 channels \(DAPI, .*\) has the shape \(H, W, 4\), not \(64, 64, 3\)"
    ):
        segment(pixels[..., :3], four)
    with pytest.raises(CellSegError, match=r"the image has 3 channels, the model takes 4 \(DAPI, CD3, CD8, Ki67\)"):
        WholeImagePredictor.from_checkpoint(four).predict(pixels[..., :3])


def test_a_model_of_rgb_takes_one_channel_as_grey_or_three(source, tmp_path):
    grey = predicted("nuclei", source, tmp_path / "grey", "--channels", "DAPI", "--formats", "coco", "csv")
    tifffile.imwrite(tmp_path / "image.tif", read_whole(source, PixelRule(INTENSITY_RULE, ("DAPI",)))[..., 0])
    plain = predicted("nuclei", tmp_path / "image.tif", tmp_path / "plain", "--formats", "coco", "csv")
    assert read_json(grey / "test-results.json") == read_json(plain / "test-results.json")
    assert (grey / "csv" / "image.csv").read_text().splitlines()[0].endswith("solidity,mean_DAPI")
    with pytest.raises(CellSegError, match=r"MODEL\.PIXEL_MEAN has 3 numbers, .* but CELLSEG\.CHANNELS names 2"):
        prediction_cfg("nuclei", "", ["CELLSEG.CHANNELS", "['0', '1']"])


def test_pictures_and_pages_show_three_of_the_channels(root, four, tmp_path):
    dataset = root / "datasets" / "marked4"
    truth, images = dataset / "annotations" / "instances_val_whole.json", dataset / "val_whole"
    found = predicted(four, images, tmp_path / "found", "--formats", "coco") / "test-results.json"
    common = ["--ground-truth", str(truth), "--predictions", str(found), "--input", str(images)]
    visualize.main(["predictions", *common, "--output", str(tmp_path / "predictions.png")])
    visualize.main(["predictions", *common, "--channels", "Ki67", "--output", str(tmp_path / "grey.png")])
    visualize.main(["dataset", "--input", str(dataset), "--output", str(tmp_path / "dataset.png")])
    visualize.main(
        ["dataset", "--input", str(root / "input"), "--channels", "Ki67", "--output", str(tmp_path / "input.png")]
    )
    report_command.main(["evaluation", *common, "--output", str(tmp_path / "evaluation.html")])
    report_command.main(["dataset", "--input", str(dataset), "--output", str(tmp_path / "dataset.html")])
    asked = ["--input", str(root / "input"), "--channels", "Ki67", "DAPI", "--workers", "1"]
    report_command.main(["dataset", *asked, "--output", str(tmp_path / "input.html")])
    assert not np.array_equal(cv2.imread(str(tmp_path / "predictions.png")), cv2.imread(str(tmp_path / "grey.png")))
    for page in ("evaluation.html", "dataset.html", "input.html"):
        assert "data:image/" in (tmp_path / page).read_text()
    with pytest.raises(CellSegError, match="4 channels cannot be shown as red, green and blue; give up to three"):
        visualize.main(["predictions", *common, "--channels", *NAMES, "--output", str(tmp_path / "four.png")])
