import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from cellseg_d2.data.catalog import check_registered, datasets_root, register_all
from cellseg_d2.errors import CellSegError


def test_every_part_is_registered_by_the_folders_name(nuclei):
    assert register_all(nuclei.parent) == ["nuclei_train", "nuclei_val", "nuclei_val_whole", "nuclei_test"]
    assert set(register_all(nuclei.parent)) <= set(DatasetCatalog.list())  # once more is no error


def test_what_detectron2_loads_is_what_was_converted(nuclei):
    description = json.loads((nuclei / "dataset.json").read_text())
    samples = DatasetCatalog.get("nuclei_train")
    assert len(samples) == description["counts"]["train"]["tiles"] == MetadataCatalog.get("nuclei_train").image_count
    assert MetadataCatalog.get("nuclei_train").thing_classes == description["class_names"]
    assert {cell["category_id"] for sample in samples for cell in sample["annotations"]} == {0, 1, 2, 3}
    assert len(DatasetCatalog.get("nuclei_test")) == description["counts"]["test"]["images"]


def test_the_root_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert datasets_root() == tmp_path
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(datasets_root()) == "datasets"


def test_folders_without_a_dataset_and_hidden_ones_are_passed_over(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / ".nuclei.partial").mkdir()
    (tmp_path / ".nuclei.partial" / "dataset.json").write_text("{}")
    assert register_all(tmp_path) == []


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset.json").write_text("{")
    with pytest.raises(CellSegError, match=r"broken.*convert again"):
        register_all(tmp_path)


def test_an_unknown_dataset_is_answered_with_the_known_ones(nuclei):
    with pytest.raises(CellSegError, match=r"'nuclie_train' is not registered.*nuclei_train.*DETECTRON2_DATASETS"):
        check_registered("nuclie_train")


@pytest.mark.parametrize("part", ["train", "val", "val_whole", "test"])
def test_the_dicts_are_those_that_detectron2_would_make(nuclei, part):
    file = MetadataCatalog.get(f"nuclei_{part}").json_file
    assert DatasetCatalog.get(f"nuclei_{part}") == load_coco_json(file, str(nuclei), f"nuclei_{part}")


@pytest.fixture
def changed(nuclei, tmp_path):
    """Registers a copy of the dataset with another validation file, and gives the name of that part."""

    def change(edit, encoding="utf-8"):
        folder = tmp_path / f"nuclei_{tmp_path.name}"
        shutil.copytree(nuclei / "annotations", folder / "annotations")
        shutil.copy(nuclei / "dataset.json", folder)
        path = folder / "annotations" / "instances_val.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content), encoding=encoding)
        register_all(tmp_path)
        return f"{folder.name}_val"

    return change


def test_annotation_ids_are_of_no_account(nuclei, changed):
    name = changed(lambda content: [cell.update(id=0) for cell in content["annotations"]], "utf-8-sig")
    pairs = zip(DatasetCatalog.get(name), DatasetCatalog.get("nuclei_val"), strict=True)
    assert all(first["annotations"] == second["annotations"] for first, second in pairs)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content["annotations"][3].update(segmentation={"size": [9, 9], "counts": "a1"}),
            "annotation 3,",
        ),
        (lambda content: content["categories"].pop(), "has the category_id|has other categories than the classes"),
        (lambda content: content["categories"].append({"id": 99}), "has other categories than the classes"),
    ],
)
def test_a_damaged_part_is_one_line(changed, edit, message):
    name = changed(edit)
    with pytest.raises(CellSegError, match=rf"instances_val\.json: .*{message}"):
        DatasetCatalog.get(name)
