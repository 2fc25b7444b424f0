import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawing import places, pycocotools_rle

from cellseg_d2.cells.coco import to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.coco_results import ResultsWriter
from cellseg_d2.export.contrast import stretched
from cellseg_d2.export.lettering import lettering
from cellseg_d2.export.marks import MISSED, SPURIOUS, draw_marks
from cellseg_d2.export.overlay import LINE, draw_overlay, resized
from cellseg_d2.export.record import Record
from cellseg_d2.images.listing import list_images
from cellseg_d2.report.prediction_grid import write_prediction_grid
from cellseg_d2.report.sheet import GAP

RULE = "range:0,255"
"""Of the sample's images, which are 8 bit."""


@pytest.fixture
def images(sample_root):
    return list_images(sample_root / "test_release", sample_root / "test_image_name_to_ids.json")[:2]


@pytest.fixture
def cells(images, sample_root):
    """The annotations of the first image."""
    truth = json.loads((sample_root / "test_gt.json").read_text())
    return [cell for cell in truth["annotations"] if cell["image_id"] == images[0].id]


def instances(cells, classes=None, scores=None):
    size = tuple(cells[0]["segmentation"]["size"])
    own = [cell["category_id"] - 1 for cell in cells] if classes is None else classes
    return CellInstances.from_rles([cell["segmentation"] for cell in cells], own, size, scores)


def draw(folder, images, found, truth=None):
    """The grid of results of the first image, as RGB."""
    with ResultsWriter.open(folder / "results.json") as writer:
        writer.append(to_results(found, images[0].id))
    write_prediction_grid(images, folder / "results.json", folder / "grid.png", ground_truth=truth)
    return cv2.imread(str(folder / "grid.png"))[..., ::-1]


def panels(grid, image, draw=resized):
    """Where a picture of an image lies in the lowest line of a grid: (x, y), the leftmost first."""
    shown = (grid < 255).any(axis=(1, 2))[:-GAP]
    height = np.argmax(~shown[::-1])
    found = [places(grid[-GAP - height :], draw(image, (height, height + more))) for more in (-1, 0, 1)]
    return sorted((x, y + len(grid) - GAP - height) for some in found for x, y in some)


def of_cells(found, kind=MISSED, marked=None):
    """Draws an image with its cells in a size."""

    def draw(image, size):
        drawn = draw_overlay(image, found, size=size, line=LINE)
        return drawn if marked is None else draw_marks(drawn, marked, kind, size[1] / image.shape[1])

    return draw


def test_a_row_shows_image_and_the_cells_of_enough_score(images, cells, tmp_path):
    found = instances([cells[0], cells[0], cells[1]], scores=[0.9, 0.2, 0.5])
    grid = draw(tmp_path, images, found)
    image = stretched(images[0].read(RULE))
    (plain,) = panels(grid, image)
    (drawn,) = panels(grid, image, of_cells(found[np.array([0, 2])]))
    # nothing was found in the second image, so it is there twice
    others = panels(grid, stretched(images[1].read(RULE)))
    assert len(others) == 2
    assert len({y for _, y in (plain, drawn, *others)}) == 1
    assert plain < drawn < others[0]
    for text in (images[0].file_name, "prediction: 2 cells", "prediction: no cells"):
        assert places(grid, lettering(text)), text


def test_with_ground_truth_what_is_missed_has_a_ring_and_what_is_spurious_a_cross(images, cells, sample_root, tmp_path):
    classes = [cell["category_id"] - 1 for cell in cells]
    classes[1] = 1 - classes[1] if classes[1] < 2 else 0  # of the wrong class: missed, and spurious
    found = instances(cells[:3], classes[:3])
    grid = draw(tmp_path, images[:1], found, sample_root / "test_gt.json")
    image, truth = stretched(images[0].read(RULE)), instances(cells)
    missed = truth[np.array([1, *range(3, len(cells))])]
    corners = [
        *panels(grid, image),
        *panels(grid, image, of_cells(truth, MISSED, missed)),
        *panels(grid, image, of_cells(found, SPURIOUS, found[np.array([1])])),
    ]
    assert len(corners) == 3
    names = [category["name"] for category in json.loads((sample_root / "test_gt.json").read_text())["categories"]]
    for text in (*names, "missed", "spurious"):
        assert places(grid, lettering(text)), text
    assert corners == sorted(corners)
    assert len({y for _, y in corners}) == 1


def test_a_crowd_is_not_drawn_and_excuses_what_lies_on_it(images, cells, tmp_path):
    height, width = cells[0]["segmentation"]["size"]
    crowd = {**cells[0], "iscrowd": 1, "segmentation": pycocotools_rle(np.ones((height, width), bool))}
    truth = {
        "images": [{"id": images[0].id}],
        "annotations": [crowd],
        "categories": [{"id": number} for number in range(1, 7)],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    found = instances(cells[:2], [crowd["category_id"] - 1] * 2)
    grid = draw(tmp_path, images[:1], found, tmp_path / "gt.json")
    image = stretched(images[0].read(RULE))
    assert len(panels(grid, image)) == 2
    assert len(panels(grid, image, of_cells(found))) == 1


def test_results_without_a_pixel_are_left_out(images, cells, tmp_path):
    size = cells[0]["segmentation"]["size"]
    empty = {**cells[0], "score": 1, "segmentation": pycocotools_rle(np.zeros(size, bool))}
    (tmp_path / "results.json").write_text(json.dumps([empty]))
    write_prediction_grid(images[:1], tmp_path / "results.json", tmp_path / "grid.png")
    grid = cv2.imread(str(tmp_path / "grid.png"))[..., ::-1]
    assert len(panels(grid, stretched(images[0].read(RULE)))) == 2


def test_the_legend_has_the_names_that_predict_wrote_or_the_numbers(images, cells, tmp_path):
    found = instances(cells[:2], [0, 1])
    assert places(draw(tmp_path, images[:1], found), lettering("class 2"))
    Record(["tumour", "stroma"]).write(tmp_path)
    assert places(draw(tmp_path, images[:1], found), lettering("stroma"))


def test_without_a_result_and_a_name_there_is_no_legend(images, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    write_prediction_grid(images[:1], tmp_path / "results.json", tmp_path / "grid.png")
    grid = cv2.imread(str(tmp_path / "grid.png"))[..., ::-1]
    assert places(grid, lettering(images[0].file_name))[0][1] == GAP


def test_a_mask_of_another_size_is_refused_with_the_image(images, cells, tmp_path):
    other = {**cells[0], "score": 1, "segmentation": pycocotools_rle(np.ones((3, 3), bool))}
    (tmp_path / "results.json").write_text(json.dumps([other]))
    with pytest.raises(CellSegError, match=rf"{images[0].path.name}: is \d+ x \d+, one of its masks 3 x 3"):
        write_prediction_grid(images, tmp_path / "results.json", tmp_path / "grid.png")


def test_a_dataset_instead_of_results_is_named(images, sample_root, tmp_path):
    with pytest.raises(CellSegError, match=r"test_gt.json: is no list of COCO results"):
        write_prediction_grid(images, sample_root / "test_gt.json", tmp_path / "grid.png")


def test_results_that_are_no_json_are_named(images, tmp_path):
    (tmp_path / "results.json").write_text("[")
    with pytest.raises(CellSegError, match=r"results.json: is not JSON"):
        write_prediction_grid(images, tmp_path / "results.json", tmp_path / "grid.png")


def test_images_without_ids_are_those_of_their_names_in_the_ground_truth(images, cells, sample_root, tmp_path):
    found = instances(cells[:3])
    expected = draw(tmp_path, images[:1], found, sample_root / "test_gt.json")
    other = [replace(images[0], id=images[0].id + 7)]
    paths = {"ground_truth": sample_root / "test_gt.json", "numbered": False}
    write_prediction_grid(other, tmp_path / "results.json", tmp_path / "named.png", **paths)
    assert (cv2.imread(str(tmp_path / "named.png"))[..., ::-1] == expected).all()
    unknown = [replace(images[0], path=tmp_path / "unknown.tif")]
    with pytest.raises(CellSegError, match=r"unknown\.tif: is not listed by .*test_gt\.json; give .*--image-ids"):
        write_prediction_grid(unknown, tmp_path / "results.json", tmp_path / "none.png", **paths)


def test_results_of_other_images_are_told(images, cells, tmp_path, caplog):
    (tmp_path / "results.json").write_text(json.dumps(to_results(instances(cells[:3]), 77)))
    write_prediction_grid(images, tmp_path / "results.json", tmp_path / "grid.png")
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'results.json'}: has no result of the images shown")
    other = [{**result, "image_id": f"image {images[0].id}"} for result in to_results(instances(cells[:3]), 1)]
    (tmp_path / "results.json").write_text(json.dumps(other))  # text is not taken for a number by chance
    write_prediction_grid(images, tmp_path / "results.json", tmp_path / "grid.png")
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("number", [str, lambda number: f"image {number}", lambda number: 2**70 + number])
def test_ids_of_any_kind_show_the_same(images, cells, sample_root, tmp_path, number):
    found = instances(cells[:3])
    expected = draw(tmp_path, images[:1], found, sample_root / "test_gt.json")
    truth = json.loads((sample_root / "test_gt.json").read_text())
    results = json.loads((tmp_path / "results.json").read_text())
    for own in truth["images"]:
        own["id"] = number(own["id"])
    for own in [*truth["annotations"], *results]:
        own["image_id"] = number(own["image_id"])
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    paths = {"ground_truth": tmp_path / "gt.json", "numbered": False}
    write_prediction_grid(images[:1], tmp_path / "results.json", tmp_path / "other.png", **paths)
    assert (cv2.imread(str(tmp_path / "other.png"))[..., ::-1] == expected).all()


def test_categories_of_any_ids_look_alike(images, sample_root, cells, tmp_path):
    """Classes go by the order of the ids, in ground truth and results, and so do the least scores of a record."""
    truth = json.loads((sample_root / "test_gt.json").read_text())
    names = [category["name"] for category in sorted(truth["categories"], key=lambda category: category["id"])]
    found = instances(cells, scores=np.linspace(0.2, 0.9, len(cells)))
    least = {name: 0.1 + 0.2 * number for number, name in enumerate(names)}
    drawn = []
    for ids in ({1: 1, 2: 2, 3: 3, 4: 4}, {1: 3, 2: 7, 3: 40, 4: 1000}):
        folder = tmp_path / str(ids[4])
        folder.mkdir()
        Record(names, {"min_score_of_class": least}).write(folder)
        renamed = {**truth, **{key: [dict(record) for record in truth[key]] for key in ("categories", "annotations")}}
        for category in renamed["categories"]:
            category["id"] = ids[category["id"]]
        results = [dict(result) for result in to_results(found, images[0].id)]
        for record in (*renamed["annotations"], *results):
            record["category_id"] = ids[record["category_id"]]
        (folder / "gt.json").write_text(json.dumps(renamed))
        (folder / "results.json").write_text(json.dumps(results))
        write_prediction_grid(images[:1], folder / "results.json", folder / "grid.png", ground_truth=folder / "gt.json")
        drawn.append(cv2.imread(str(folder / "grid.png")))
    assert np.array_equal(*drawn)


def test_results_of_classes_that_a_record_lacks_are_refused(images, cells, tmp_path):
    Record(["class1"]).write(tmp_path)
    with pytest.raises(CellSegError, match="of category 3, which is not among those that are named"):
        draw(tmp_path, images, instances(cells[:1], classes=[2], scores=[0.9]))
