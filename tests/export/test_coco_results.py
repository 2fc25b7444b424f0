"""``test-results.json`` as a grader reads it."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from drawing import overlapping_masks, pycocotools_rle, written
from faster_coco_eval import COCO as OtherCOCO
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from cellseg_d2.cells.coco import to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.coco_results import ResultsWriter, check_results, zip_results

SIZES = {3: (6, 8), 5: (4, 4)}


def cells_of(masks, size):
    scores = np.linspace(1 / 3, 1, len(masks))
    return CellInstances.from_rles([pycocotools_rle(mask) for mask in masks], range(len(masks)), size, scores)


def good_results():
    mask = np.zeros(SIZES[3], bool)
    mask[1:4, 2:7] = True
    return to_results(cells_of([mask, ~mask], SIZES[3]), 3)


def write(path, results):
    with ResultsWriter.open(path) as writer:
        writer.append(results)


def load_back(path, sizes, count, reader=COCO):
    """What pycocotools, or another reader with its methods, makes of a results file."""
    truth = reader()
    truth.dataset = {
        "info": {},
        "images": [{"id": number, "height": height, "width": width} for number, (height, width) in sizes.items()],
        "annotations": [],
        "categories": [{"id": number} for number in range(1, count + 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        return truth.loadRes(str(path))


@written
@given(overlapping_masks(min_count=1), overlapping_masks(min_count=1), st.integers(1, 2**40))
def test_pycocotools_loads_and_decodes_what_is_written(tmp_path_factory, first, second, image_id):
    path = tmp_path_factory.mktemp("results") / "new" / "test-results.json"
    images = {image_id: first, image_id + 1: second}
    sizes = {number: masks[0].shape for number, masks in images.items()}
    results = [r for number, masks in images.items() for r in to_results(cells_of(masks, sizes[number]), number)]
    write(path, results)
    assert check_results(path, sizes, range(1, 7)) == len(results)
    loaded = load_back(path, sizes, 6)
    for number, masks in images.items():
        own = loaded.loadAnns(loaded.getAnnIds(imgIds=number))
        assert [annotation["category_id"] for annotation in own] == list(range(1, len(masks) + 1))
        assert [annotation["score"] for annotation in own] == pytest.approx(np.linspace(1 / 3, 1, len(masks)), abs=1e-6)
        for annotation, mask in zip(own, masks):
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
            assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()


@written
@given(overlapping_masks(min_count=1))
def test_another_reader_loads_and_decodes_it_too(tmp_path_factory, masks):
    path = tmp_path_factory.mktemp("results") / "test-results.json"
    size = masks[0].shape
    write(path, to_results(cells_of(masks, size), 7))
    loaded = load_back(path, {7: size}, 6, OtherCOCO)
    own = loaded.loadAnns(loaded.getAnnIds(imgIds=[7]))
    assert [annotation["category_id"] for annotation in own] == list(range(1, len(masks) + 1))
    for annotation, mask in zip(own, masks):
        assert np.array_equal(loaded.annToMask(annotation), mask)


def test_boxes_are_the_masks_and_not_the_models():
    cells = CellInstances(
        (9, 9),
        np.array([[0.2, 0.3, 8.8, 8.7]], np.float32),
        np.array([0.123456789], np.float32),
        np.array([4]),
        [np.ones((2, 3), bool)],
        np.array([[5, 1]]),
    )
    (result,) = to_results(cells, 7)
    assert (result["image_id"], result["category_id"], result["bbox"], result["score"]) == (
        7,
        5,
        [5, 1, 3, 2],
        0.123457,
    )


def test_no_cell_at_all_is_a_valid_file(tmp_path):
    write(tmp_path / "r.json", to_results(CellInstances.empty((6, 8)), 3))
    assert json.loads((tmp_path / "r.json").read_text()) == []
    assert check_results(tmp_path / "r.json", SIZES, {1, 2}) == 0


def test_a_file_is_replaced_whole(tmp_path):
    (tmp_path / "r.json").write_text("x" * 10_000)
    write(tmp_path / "r.json", good_results())
    assert check_results(tmp_path / "r.json", SIZES, {1, 2}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_cannot_be_written_leaves_the_old_file_and_no_part(tmp_path):
    write(tmp_path / "r.json", good_results())
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(TypeError):
        write(tmp_path / "r.json", [*good_results(), {"image_id": np.int64(3)}])
    assert (tmp_path / "r.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_images_one_after_the_other_are_the_same_file_as_all_at_once(tmp_path):
    first, second = good_results(), to_results(CellInstances.empty(SIZES[5]), 5)
    with ResultsWriter.open(tmp_path / "new" / "r.json") as writer:
        for results in (second, first, second, iter(first)):
            writer.append(results)
        assert not (tmp_path / "new" / "r.json").exists()
    assert writer.count == 4
    assert json.loads((tmp_path / "new" / "r.json").read_text()) == first * 2
    write(tmp_path / "whole.json", first * 2)
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "new" / "r.json").read_bytes()


def test_a_writer_that_is_given_up_leaves_the_old_file_and_no_part(tmp_path):
    write(tmp_path / "r.json", good_results())
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(KeyboardInterrupt), ResultsWriter.open(tmp_path / "r.json") as writer:
        writer.append(good_results())
        raise KeyboardInterrupt
    assert (tmp_path / "r.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_the_archive_holds_the_file_and_is_always_the_same(tmp_path):
    archives = []
    for folder in ("a", "b"):
        write(tmp_path / folder / "test-results.json", good_results())
        archive = zip_results(tmp_path / folder / "test-results.json")
        assert archive == tmp_path / folder / "test-results.zip"
        archives.append(archive.read_bytes())
        with zipfile.ZipFile(archive) as content:
            assert content.namelist() == ["test-results.json"]
            assert json.loads(content.read("test-results.json")) == good_results()
    assert archives[0] == archives[1]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["test-results.json", "test-results.zip"]


def test_no_archive_is_made_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        zip_results(tmp_path / "test-results.json")
    assert not list(tmp_path.iterdir())


def changed(**values):
    return [*good_results(), {**good_results()[0], **values}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(changed(image_id=4), "image id 4 is not among the images", id="unknown image"),
        pytest.param(changed(category_id=3), "category id 3 is not among the categories", id="unknown category"),
        pytest.param(changed(category_id=0), "category id 0 is not among the categories", id="classes counted from 0"),
        pytest.param(changed(image_id=5), "a mask of image 5 is 6 x 8, the image 4 x 4", id="other size"),
        pytest.param([{"image_id": 3, "category_id": 1, "score": 1.0}], "segmentation", id="no mask"),
        pytest.param(changed(segmentation={"size": [6, 8], "counts": "zz"}), "RLE", id="damaged mask"),
        pytest.param([{"category_id": 1}], "image_id", id="no image"),
        pytest.param({"annotations": []}, "", id="a dataset"),
    ],
)
def test_what_a_grader_would_refuse_is_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(CellSegError) as caught:
        check_results(tmp_path / "r.json", SIZES, {1, 2})
    assert str(caught.value).startswith(f"{tmp_path / 'r.json'}: COCO's evaluation would reject it: ")
    assert message in str(caught.value)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    write(tmp_path / "r.json", good_results())
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text[:-30])
    with pytest.raises(CellSegError, match=r"r\.json: COCO's evaluation would reject it"):
        check_results(tmp_path / "r.json", SIZES, {1, 2})
