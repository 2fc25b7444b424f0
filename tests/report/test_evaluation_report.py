"""The page read back by Python's own HTML parser, against the numbers of judge_results."""

import json
import math
from collections import defaultdict
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import tifffile
from coco_cases import NAMES, draw_case

from cellseg_d2.cells.coco import annotate, dataset
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.error_breakdown import KINDS
from cellseg_d2.evaluation.image_scores import image_scores
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.report.evaluation_report import TABLE_ROWS, GalleryOptions, heat_of, write_evaluation_report

LAYERS = ["truth", "prediction", "missed", "spurious"]


class Page(HTMLParser):
    """What tests ask of a page.

    Attributes:
        tables: by section, each a list of rows of text; the header is one of them.
        elements: attributes by tag, in order.
        viewers: attributes of each viewer and, by tag, those of what it holds.
        text: all of it.
    """

    def __init__(self, path):
        super().__init__()
        self.tables, self.elements, self.viewers = defaultdict(list), defaultdict(list), []
        self.text, self.section, self.in_cell = "", "", False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.elements[tag].append(own)
        if tag == "h2":
            self.section = own["id"]
        elif tag == "table":
            self.tables[self.section].append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1][-1].append("")
        elif own.get("class") == "viewer":
            self.viewers.append((own, defaultdict(list)))
        elif self.viewers and self.section == "gallery":
            self.viewers[-1][1][tag].append(own)
        self.in_cell = tag in ("td", "th") or (self.in_cell and tag not in ("tr", "table"))

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[self.section][-1][-1][-1] += data


@pytest.fixture
def write(tmp_path):
    """Writes the page of a ground truth and results, and reads it back."""

    def run(truth, results, gallery=None, **options):
        (tmp_path / "gt.json").write_text(json.dumps(truth))
        (tmp_path / "results.json").write_text(json.dumps(results))
        page = tmp_path / "page.html"
        gallery = gallery or GalleryOptions()
        write_evaluation_report(tmp_path / "gt.json", tmp_path / "results.json", page, gallery, **options)
        return Page(page)

    return run


def number(value):
    return "-" if math.isnan(value) else f"{value:.2f}"


def test_tables_have_the_numbers_of_the_judgement(write):
    truth, results = draw_case(3, cells=40, side=100)
    page = write(truth, results, score_threshold=0.3)
    judgement = judge_results(truth, results, 1000, Selection(NAMES, 0.3))
    cells = judgement.cells
    overall, by_class = page.tables["ap"]
    assert overall[0] == ["all classes", "mask", "box"]
    for name, *values in overall[1:]:
        assert values == [number(judgement.ap[task][name]) for task in ("segm", "bbox")]
    for row, name in zip(by_class[1:], NAMES, strict=True):
        expected = [judgement.ap[task][f"{key}-{name}"] for task in ("segm", "bbox") for key in ("AP", "AP50")]
        assert row == [name, *map(number, expected)]

    classes, by_iou, summary = page.tables["cells"]
    for row in classes[1:]:
        for name, value in zip(classes[0][1:], row[1:], strict=True):
            exact = cells.metrics.classes[row[0]][name]
            assert value == (
                f"{exact:.0f}" if name in ("cells", "predictions", "hit", "spurious", "missed") else number(exact)
            )
    for row, metric in zip(by_iou[1:], ("F1", "accuracy"), strict=True):
        assert row == [metric, *(number(cells.metrics.summary[f"{metric}@{iou}"]) for iou in by_iou[0][1:])]
    shown = {name: value for name, value, _ in summary}
    assert shown["mPQ+"] == number(cells.metrics.summary["mPQ+"]) and shown["hidden"] == str(
        int(cells.metrics.summary["hidden"])
    )
    assert len(shown) + 2 * (len(by_iou[0]) - 1) == len(cells.metrics.summary)

    (thresholds,) = page.tables["recall"]
    assert [row[:3] for row in thresholds[1:]] == [
        [name, f"{best.score:.4f}", number(best.f1)] for name, best in cells.thresholds.items()
    ]
    (confusion,) = page.tables["confusion"]
    counts = cells.metrics.confusion.astype(str).tolist()
    counts[-1][-1] = ""
    assert [row[1:] for row in confusion[1:]] == counts
    (errors,) = page.tables["errors"]
    assert errors[1:] == [
        [kind, str(int(cells.errors.counts[kind].sum())), number(cells.errors.costs[kind])] for kind in KINDS
    ]
    for best in cells.thresholds.values():
        assert f"F1 {number(best.f1)} at {best.score:.3f}" in page.text  # the legend of precision by recall
    assert page.text.count("A dash: there is nothing to measure.") == 3  # of the third class, and of large areas
    assert f"{NAMES[2]}: no curve, the ground truth has no cell of this class" in page.text


def test_a_picture_has_its_layers_and_says_its_numbers(write):
    truth, results = draw_case(1)
    page = write(truth, results)
    scores = {score.name: score for score in image_scores(judge_results(truth, results, 1000, Selection(NAMES)).cells)}
    assert [own["data-image"] for own, _ in page.viewers] == [row[0] for row in page.tables["images"][0][1:]]
    for own, parts in page.viewers:
        score = scores[own["data-image"]]
        assert (own["tabindex"], own["role"], own["data-scale"]) == ("0", "group", "1")
        assert own["aria-label"] == (
            f"{score.name}: {score.cells} cells, {score.missed} missed, {score.spurious} spurious, F1 {score.f1:.0f}"
        )
        kinds = [path.get("class") for path in parts["path"]]
        assert (kinds.count("missed"), kinds.count("spurious")) == (score.missed, score.spurious)
        assert [box["data-layer"] for box in parts["input"]] == LAYERS  # no image was given
        assert [group["class"] for group in parts["g"]] == ["truth", "prediction"]
        assert not parts["image"]
        assert (kinds.count("mark missed"), kinds.count("mark spurious")) == (score.missed, score.spurious)
        assert len(parts["title"]) == len(parts["path"]) - score.missed - score.spurious
    assert "these are only outlines" in page.text


def test_pictures_come_first_and_tables_after(write):
    page = write(*draw_case(1))
    sections = [own["id"] for own in page.elements["h2"]]
    assert sections == ["gallery", "recall", "errors", "confusion", "ap", "cells", "images"]


def test_half_of_the_pictures_are_the_worst_and_half_the_best(write):
    truth, results = draw_case(0, crowds=False)
    for image_id in range(20, 27):  # of as many cells as it has errors, each found
        source = [cell for cell in truth["annotations"] if cell["image_id"] == 4][: image_id - 19]
        truth["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": 64, "width": 64})
        truth["annotations"] += [
            {**cell, "image_id": image_id, "id": 1000 * image_id + n} for n, cell in enumerate(source)
        ]
        results += [{**cell, "image_id": image_id, "score": 1.0} for cell in source]
    truth["images"].append({"id": 30, "file_name": "nothing.png", "height": 64, "width": 64})
    page = write(truth, results, GalleryOptions(count=5))
    names = [row[0] for row in page.tables["images"][0][1:]]
    assert len(names) == 10 and "nothing.png" not in names
    assert [own["data-image"] for own, _ in page.viewers] == [*names[:3], *names[:-3:-1]]
    assert (
        names[-1] == "26.png" and page.viewers[-2][0]["aria-label"] == "26.png: 7 cells, 0 missed, 0 spurious, F1 100"
    )
    assert not write(truth, results, GalleryOptions(count=0)).viewers


def test_boxes_alone_give_ap_and_the_reason(write):
    truth, results = draw_case(0)
    page = write(truth, [{key: own[key] for key in own if key != "segmentation"} for own in results])
    assert set(page.tables) == {"ap"} and not page.viewers and not page.elements["script"]
    assert page.tables["ap"][0][0] == ["all classes", "box"]
    assert "since no result has a mask" in page.text


@pytest.mark.parametrize("segmentation", [None, []])
def test_cells_without_masks_are_another_reason(write, segmentation):
    truth, results = draw_case(0)
    for own in truth["annotations"]:
        own["segmentation"] = segmentation
    page = write(truth, results)
    assert set(page.tables) == {"ap"} and page.tables["ap"][0][0] == ["all classes", "box"]
    assert "since no cell of the ground truth has a mask" in page.text
    boxes = page.tables["ap"][0]
    for own in results:
        del own["bbox"]  # they are those of the masks
    assert write(truth, results).tables["ap"][0] == boxes


@pytest.mark.parametrize("cells", [True, False])
def test_no_results_and_no_cells_are_a_page_too(write, cells):
    truth, _ = draw_case(0)
    if not cells:
        truth["annotations"] = []
    page = write(truth, [])
    assert page.tables["ap"][0][2] == ["AP50", *["0.00" if cells else "-"] * 2]
    assert len(page.viewers) == (2 if cells else 0)  # the third image is empty
    said = (
        "no image has cells or predictions",
        "No curve: the ground truth has no cells",
        "No costs: the ground truth",
    )
    assert [text in page.text for text in said] == [not cells] * 3
    assert "All classes together. A dash: there is nothing to measure." in page.text
    assert ("No score threshold is best: no cell was found" in page.text) == cells


def test_names_are_text_and_the_page_loads_nothing(write, tmp_path):
    evil = '<script>alert("1")</script>$x$_'
    truth, results = draw_case(0)
    for category in truth["categories"]:
        category["name"] = f"_{evil}{category['id']}"
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}{evil}.png"
    page = write(truth, results)
    assert len(page.elements["script"]) == 1
    assert page.text.count(f"_{evil}1") > 5
    assert {own["data-image"] for own, _ in page.viewers} == {f"{number}{evil}.png" for number in (4, 9, 12)}
    links = [
        own[key]
        for tag in page.elements.values()
        for own in tag
        for key in ("src", "href", "xlink:href")
        if own.get(key)
    ]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "default-src 'none'" in next(own["content"] for own in page.elements["meta"] if "http-equiv" in own)


def test_shades_are_shares_of_a_row():
    assert heat_of([[3, 1], [5, 0]]) == [["rgba(0,114,178,0.45)", "rgba(213,94,0,0.15)"], ["rgba(213,94,0,0.60)", ""]]


def test_the_table_of_images_is_bounded(write):
    truth, results = draw_case(0, cells=2, side=32)
    records = truth["images"][0], [own for own in truth["annotations"] if own["image_id"] == 4]
    for image_id in range(100, 220):
        truth["images"].append({**records[0], "id": image_id})
        truth["annotations"] += [
            {**own, "image_id": image_id, "id": 100 * image_id + n} for n, own in enumerate(records[1])
        ]
    page = write(truth, results, GalleryOptions(count=1))
    assert len(page.tables["images"][0]) == 1 + TABLE_ROWS
    assert f"The first {TABLE_ROWS} of 12" in page.text


def test_a_picture_of_700_cells_leaves_room_for_eleven_more(write, tmp_path):
    rng = np.random.default_rng(0)
    label_map = np.zeros((1024, 1024), np.int32)
    for number in range(700):
        centre = (20 + 36 * (number % 28), 20 + 36 * (number // 28))
        cv2.ellipse(label_map, centre, rng.integers(9, 17, 2).tolist(), int(rng.integers(180)), 0, 360, number + 1, -1)
    own = annotate([LabelMap((1,), label_map)], (0, 0, 1024, 1024))
    truth = dataset([{"id": 1, "file_name": "1.tif", "height": 1024, "width": 1024}], [own], ["A"])
    results = [{**cell, "score": 0.9} for cell in truth["annotations"]]
    texture = cv2.GaussianBlur(rng.integers(0, 256, (1024, 1024, 3), np.uint8), (0, 0), 1.5)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "1.tif", texture)
    page = write(truth, results, GalleryOptions(tmp_path / "images"))
    assert len(page.viewers) == 1 and len(page.viewers[0][1]["path"]) == 1400
    assert [box["data-layer"] for box in page.viewers[0][1]["input"]] == ["image", *LAYERS]
    assert (tmp_path / "page.html").stat().st_size < 8e6 / 12
    small = write(truth, results, GalleryOptions(tmp_path / "images", max_side=256))
    assert small.viewers[0][1]["image"][0]["width"] == "256.0"


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(CellSegError, match="-1 images"):
        GalleryOptions(count=-1)
    with pytest.raises(CellSegError, match="of 0 pixels"):
        GalleryOptions(max_side=0)
    with pytest.raises(CellSegError, match=r"ids\.json: is of images that were not given"):
        GalleryOptions(image_ids=tmp_path / "ids.json")


def test_the_tool_needs_neither_torch_nor_detectron2(run_tool, repo_root, sample_root, tmp_path):
    truth = json.loads((sample_root / "test_gt.json").read_text())
    results = [
        {**{key: cell[key] for key in ("image_id", "category_id", "bbox", "segmentation")}, "score": 0.9}
        for cell in truth["annotations"][::2]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for name in ("torch", "detectron2"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    done = run_tool(
        *("report", "evaluation", "--ground-truth", sample_root / "test_gt.json"),
        *("--predictions", tmp_path / "results.json", "--output", tmp_path / "page.html", "--images", "2"),
        *("--input", sample_root / "test_release", "--image-ids", sample_root / "test_image_name_to_ids.json"),
        PYTHONPATH=f"{tmp_path}:{repo_root}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = Page(tmp_path / "page.html")
    assert [len(parts["image"]) for _, parts in page.viewers] == [1, 1]
    assert str(tmp_path) not in (tmp_path / "page.html").read_text()
