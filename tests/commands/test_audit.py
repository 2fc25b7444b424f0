"""`audit` as a user runs it, with `nuclei` on some images of the sample whose labels have errors that are known."""

import csv
import json
import shutil

import pytest
from labelled_results import write_results
from pages import Page, addresses

from benchmarks.audit import locate
from benchmarks.planted import plant
from cellseg_d2.annotations.geojson import read_objects
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.untile import untiled_images

IMAGES = 3
"""Of the sample: each takes some seconds."""


@pytest.fixture(scope="module")
def workplace(sample_root, tmp_path_factory):
    """A folder with a converted dataset ``cells``, and the errors that were planted in it."""
    root = tmp_path_factory.mktemp("audit")
    small = sorted(
        (sample_root / "train").iterdir(), key=lambda folder: sum(path.stat().st_size for path in folder.iterdir())
    )[10 : 10 + IMAGES]
    for folder in small:
        (root / "few" / "train" / folder.name).parent.mkdir(parents=True, exist_ok=True)
        (root / "few" / "train" / folder.name).symlink_to(folder)
    planted = plant(root / "few", root / "planted", share=0.2, seed=1)
    convert(root / "planted", root / "datasets" / "cells", ConvertOptions(val_fraction=0.34))
    return root, planted


@pytest.fixture(scope="module")
def audit(run_tool, workplace):
    """Runs the command on that dataset."""

    def run(output, *options):
        root, _ = workplace
        arguments = ("--dataset", "cells", "--output", output, *options)
        return run_tool("audit", *arguments, DETECTRON2_DATASETS=str(root / "datasets"))

    return run


@pytest.fixture(scope="module")
def audited(audit, workplace):
    output = workplace[0] / "audited"
    done = audit(output, "--weights", "nuclei", "--min-score", "0.3")
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_the_list_begins_with_the_worst_and_finds_what_one_class_can_see(audited, workplace):
    output, printed = audited
    doubts = json.loads((output / "audit.json").read_text())["doubts"]
    assert [doubt["rank"] for doubt in doubts] == list(range(1, len(doubts) + 1))
    by_kind = {doubt["kind"]: [one["score"] for one in doubts if one["kind"] == doubt["kind"]] for doubt in doubts}
    assert all(scores == sorted(scores, reverse=True) and min(scores) >= 0.3 for scores in by_kind.values())
    assert {doubt["kind"] for doubt in doubts[: len(by_kind)]} == set(by_kind)  # the worst of each kind first
    assert f"{len(doubts)} doubts" in printed
    with (output / "audit.csv").open(newline="") as file:
        assert [{**row} for row in csv.DictReader(file)] == [
            {key: str(value) for key, value in doubt.items()} for doubt in doubts
        ]
    assert {doubt["part"] for doubt in doubts} <= {"train", "val"}
    visible = [error for error in workplace[1] if error.kind != "swapped"]
    assert len(locate(visible, doubts).places) > len(visible) / 2
    assert "wrong class" not in {doubt["kind"] for doubt in doubts}


def test_qupath_gets_an_annotation_for_each_doubt_that_says_what_is_doubted(audited):
    output, _ = audited
    doubts = json.loads((output / "audit.json").read_text())["doubts"]
    for name in {doubt["image"] for doubt in doubts}:
        objects = read_objects(output / "geojson" / f"{name}.geojson")
        assert {found.kind for found in objects} == {"annotation"}
        features = json.loads((output / "geojson" / f"{name}.geojson").read_text())["features"]
        named = {feature["properties"]["name"] for feature in features}
        assert {tuple(text.split(":")[0].rsplit(" ", 1)) for text in named} == {
            (f"{doubt['rank']} {doubt['kind']}", f"{doubt['score']:.2f}") for doubt in doubts if doubt["image"] == name
        }


def test_the_page_shows_the_worst_places_and_is_a_single_file(audited):
    output, _ = audited
    doubts = json.loads((output / "audit.json").read_text())["doubts"]
    page = Page(output / "audit.html")
    assert page.open == [] and page.loaded() == [] and addresses(page) == set()
    for doubt in doubts[:100]:
        assert f"{doubt['rank']}. {doubt['kind']}, {doubt['score']:.2f}" in page.text
    assert page.source.count("<image ") == min(len(doubts), 100)
    assert page.source.count('class="doubted"') >= min(len(doubts), 100)


def test_results_that_are_there_give_the_list_of_their_weights(audit, audited, workplace, run_tool, tmp_path):
    root, _ = workplace
    for image in untiled_images(root / "datasets" / "cells"):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(root / "planted" / "train" / image.name / "image.tif", tmp_path / "images" / f"{image.name}.tif")
    results = tmp_path / "results"
    options = ("--input", tmp_path / "images", "--output", results, "--formats", "coco")
    assert run_tool("predict", "--weights", "nuclei", *options).returncode == 0
    done = audit(
        tmp_path / "list",
        *("--predictions", results / "test-results.json", "--ignore-classes", "--min-score", "0.3", "--pictures", "0"),
    )
    assert done.returncode == 0, done.stderr
    ours, expected = (
        json.loads((folder / "audit.json").read_text())["doubts"] for folder in (tmp_path / "list", audited[0])
    )
    same = ("image", "kind", "x", "y", "width", "height")
    assert [[doubt[key] for key in same] for doubt in ours] == [[doubt[key] for key in same] for doubt in expected]


def test_classes_of_results_are_compared(audit, workplace, tmp_path):
    """Results that are the labels but for one class."""
    dataset = workplace[0] / "datasets" / "cells"
    changed = {}

    def change(results):
        changed.update(next(one for one in results if one["image_id"] == 2))
        results[results.index(changed)]["category_id"] = changed["category_id"] % 4 + 1

    write_results(dataset, tmp_path, change)
    done = audit(tmp_path / "list", "--predictions", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    wrong = [
        (doubt["image"], doubt["labelled"], doubt["predicted"], doubt["score"])
        for doubt in json.loads((tmp_path / "list" / "audit.json").read_text())["doubts"]
        if doubt["kind"] == "wrong class"
    ]
    was, name = changed["category_id"], list(untiled_images(dataset))[1].name
    assert wrong == [(name, f"class{was}", f"class{was % 4 + 1}", 0.9)]


def test_an_earlier_list_is_kept_without_overwrite(audit, audited):
    before = (audited[0] / "audit.json").read_bytes()
    done = audit(audited[0], "--weights", "nuclei")
    assert done.returncode == 2 and "holds an audit already" in done.stderr
    assert (audited[0] / "audit.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--weights", "nuclei", "--min-score", "2"], "from 0 to 1", id="score"),
        pytest.param([], "one of the arguments --weights --predictions is required", id="no model"),
        pytest.param(["--predictions", "no.json", "MODEL.DEVICE", "cpu"], "config keys are for --weights", id="keys"),
        pytest.param(["--predictions", "no.json"], "no.json: cannot be read", id="no results"),
        pytest.param(["--weights", "nuclei", "--dataset", "other"], "other: is no converted dataset", id="no dataset"),
    ],
)
def test_what_cannot_be_audited_is_one_line(audit, tmp_path, options, message):
    done = audit(tmp_path / "list", *options)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "list").exists()


def test_results_that_do_not_name_their_images_are_refused(audit, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    done = audit(tmp_path / "list", "--predictions", tmp_path / "results.json")
    assert done.returncode == 2 and "no image_ids.json beside it names its images" in done.stderr
