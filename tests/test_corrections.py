"""Corrections: ground truth is exported, edited with each format's own library, and read again, pixel for pixel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roifile
import shapely
import tifffile
from drawing import write_sample
from numpy.typing import NDArray
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from cellseg_d2.annotations.class_tiffs import find_samples
from cellseg_d2.annotations.readers import find_labelled
from cellseg_d2.cells.coco import to_results
from cellseg_d2.cells.image_names import IDS_FILE
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.rle import Runs, column_runs
from cellseg_d2.commands import main
from cellseg_d2.export.cellpose import class_folders
from cellseg_d2.export.formats import LATER_FORMATS
from cellseg_d2.export.record import RESULTS_FILE, Record
from cellseg_d2.files import as_file_name, read_json, write_json
from cellseg_d2.images.listing import RESULTS_RECORD
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

NAMES = ["small round", "large", "elongated", "irregular: other"]
DRAWN = "drawn"


@dataclass(frozen=True)
class Cell:
    """A cell of an image: its class's number, 0, 1, ..., and its pixels in the image."""

    number: int
    mask: NDArray[np.bool_]


Cells = dict[int, Cell]
"""Those of an image by their ids."""


@dataclass(frozen=True)
class Edit:
    """What is changed in an image: the cell ``removed`` goes, ``moved`` becomes another class, ``added`` is new."""

    removed: int
    moved: int
    to: int
    added: Cell

    @classmethod
    def of(cls, cells: Cells) -> Edit:
        """The new cell is a disc where there is most room."""
        ids = sorted(cells)
        removed, moved = ids[len(ids) // 2], ids[-1]
        mask = np.any([cell.mask for cell in cells.values()], axis=0)
        depth = cv2.distanceTransform((~np.pad(mask, 1, constant_values=True)).astype(np.uint8), cv2.DIST_L2, 5)
        _, room, _, (x, y) = cv2.minMaxLoc(depth[1:-1, 1:-1])
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        disc = np.hypot(columns - x, rows - y) < min(room - 1, 8)
        assert disc.any()
        return cls(removed, moved, (cells[moved].number + 1) % len(NAMES), Cell(removed % len(NAMES), disc))

    @property
    def outline(self) -> shapely.Polygon:
        """The new cell's, along its pixels' edges."""
        rows, columns = np.nonzero(self.added.mask)
        return shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1)).simplify(0)

    def on(self, cells: Cells, new: int) -> Cells:
        """The cells as they are to be afterwards, with the new one's id."""
        kept = {label: cell for label, cell in cells.items() if label != self.removed}
        return {**kept, self.moved: replace(cells[self.moved], number=self.to), new: self.added}


def masks(runs: Runs) -> list[NDArray[np.bool_]]:
    """Those of cells in the frame of the image."""
    whole = np.zeros((len(runs), *runs.size), bool)
    for mask, crop, (x, y) in zip(whole, runs.crops(), runs.boxes[:, :2].tolist()):
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return list(whole)


def drawn_cells() -> list[Cell]:
    """Parts, a ring around an island, a slanting pair of pixels, and cells of one class and of two that overlap."""
    size = (60, 80)
    y, x = np.ogrid[: size[0], : size[1]]
    ring = (np.hypot(x - 15, y - 15) < 12) & (np.hypot(x - 15, y - 15) > 7)
    island = np.hypot(x - 15, y - 15) < 3
    parts = np.zeros(size, bool)
    parts[40:50, 5:15], parts[50:55, 15:20], parts[40:44, 20:30] = True, True, True
    first, second, third = (np.hypot(x - at, y - 45) < 9 for at in (50, 58, 66))
    return [Cell(0, ring | island), Cell(1, parts), Cell(2, first), Cell(2, second), Cell(3, third)]


def scores(count: int) -> NDArray[np.float64]:
    return np.linspace(0.9, 0.5, count).round(6)


@pytest.fixture(scope="module")
def truth(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Cells]]:
    """A folder with files of all formats of every second image of the sample, and of a drawn one; and the cells."""
    root = tmp_path_factory.mktemp("corrected")
    drawn = drawn_cells()
    everything = {DRAWN: dict(enumerate(drawn, start=1))}
    write_sample(root, DRAWN, np.zeros((*drawn[0].mask.shape, 3), np.uint8), {})
    images = {DRAWN: root / "train" / DRAWN / "image.tif"}
    for sample in find_samples(sample_root)[0][::2]:
        layers = sample.read(INTENSITY_RULE, MAX_PIXELS, len(NAMES)).label_maps
        cells = [Cell(layer.categories[0] - 1, mask) for layer in layers for mask in masks(layer.cells[1])]
        everything[sample.id] = dict(enumerate(cells, start=1))
        images[sample.id] = sample.image
    results, entries = [], []
    for number, (name, cells) in enumerate(everything.items(), start=1):
        (root / "images").mkdir(exist_ok=True)
        shutil.copyfile(images[name], root / "images" / f"{name}.tif")
        labels = [column_runs(cell.mask.astype(np.int32))[1].rles()[0] for cell in cells.values()]
        size, classes = next(iter(cells.values())).mask.shape, [cell.number for cell in cells.values()]
        results += to_results(CellInstances.from_rles(labels, classes, size, scores(len(cells))), number)
        entries.append({"file_name": f"{name}.tif", "id": number, "height": size[0], "width": size[1]})
    shutil.rmtree(root / "train")
    write_json(root / RESULTS_FILE, results)
    write_json(root / IDS_FILE, entries)
    Record(NAMES, {"min_score": 0, "method": "none"}).write(root)
    words = ["export", "--results", str(root), "--input", str(root / "images"), "--formats"]
    assert main([*words, *LATER_FORMATS]) == 0
    assert main([*words, "geojson", "--as", "annotation", "--output", str(root / "editable")]) == 0
    return root, everything


def read(root: Path, name: str) -> Iterator[tuple[str, dict[int, tuple[str, NDArray[np.bool_]]]]]:
    """Image by image, label -> class name and pixels; no label is there twice."""
    found = find_labelled(root, name)
    assert not found.notes
    for image in found.images:
        cells: dict[int, tuple[str, NDArray[np.bool_]]] = {}
        for layer in image.read(INTENSITY_RULE, MAX_PIXELS, len(found.class_names)).label_maps:
            assert not layer.crowd
            labels, runs = layer.cells
            for label, mask in zip(labels.tolist(), masks(runs)):
                assert label not in cells
                cells[label] = (found.class_names[layer.categories[0] - 1], mask)
        yield image.id, cells


def painted(cells: Cells) -> Cells:
    """Cells as label maps per class hold them: the first, which has the best score, lies on top."""
    seen = np.zeros((len(NAMES), *next(iter(cells.values())).mask.shape), bool)
    shown = {}
    for label, cell in cells.items():
        shown[label] = replace(cell, mask=cell.mask & ~seen[cell.number])
        seen[cell.number] |= cell.mask
    return shown


def edit_coco(root: Path, edits: dict[str, Edit]) -> None:
    path = root / "annotations" / "instances_default.json"
    coco = COCO(path)
    annotations = coco.dataset["annotations"]
    for image in coco.dataset["images"]:
        edit = edits[Path(image["file_name"]).stem]
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        found[edit.moved - 1]["category_id"] = edit.to + 1
        annotations.remove(found[edit.removed - 1])
        rle = mask_util.encode(np.asfortranarray(edit.added.mask.astype(np.uint8)))
        annotations.append(
            {
                "id": annotations[-1]["id"] + 1,
                "image_id": image["id"],
                "category_id": edit.added.number + 1,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "bbox": mask_util.toBbox(rle).tolist(),
                "area": int(mask_util.area(rle)),
                "iscrowd": 1,  # as CVAT marks what its brush drew
            }
        )
    path.write_text(json.dumps(coco.dataset))


def edit_geojson(root: Path, edits: dict[str, Edit]) -> None:
    for path in (root / "geojson").iterdir():
        edit = edits[path.stem]
        content = json.loads(path.read_text())
        features = content["features"]
        features[edit.moved - 1]["properties"]["classification"]["name"] = NAMES[edit.to]
        del features[edit.removed - 1]
        properties = {"objectType": "annotation", "classification": {"name": NAMES[edit.added.number]}}
        geometry = json.loads(shapely.to_geojson(edit.outline))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        path.write_text(json.dumps(content))


def edit_rois(root: Path, edits: dict[str, Edit]) -> None:
    for path in (root / "rois").iterdir():
        edit = edits[path.stem]
        rois = roifile.roiread(path)
        number, _, score = re.fullmatch(r"(\d+)_(.+)_(.+)", rois[edit.moved - 1].name).groups()
        rois[edit.moved - 1].name = f"{number}_{as_file_name(NAMES[edit.to])}_{score}"
        del rois[edit.removed - 1]
        added = roifile.ImagejRoi.frompoints(shapely.get_coordinates(edit.outline)[:-1])
        added.name = as_file_name(NAMES[edit.added.number])
        path.unlink()
        roifile.roiwrite(path, [*rois, added])


def edit_labelme(root: Path, edits: dict[str, Edit]) -> None:
    for path in (root / "labelme").iterdir():
        edit = edits[path.stem]
        content = json.loads(path.read_text())
        shapes = [shape for shape in content["shapes"] if shape["group_id"] != edit.removed]
        for shape in shapes:
            shape["label"] = NAMES[edit.to] if shape["group_id"] == edit.moved else shape["label"]
        points = shapely.get_coordinates(edit.outline)[:-1].tolist()
        label = NAMES[edit.added.number]
        shapes.append({"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}})
        path.write_text(json.dumps({**content, "shapes": shapes}))


def change_maps(maps: list[NDArray[np.unsignedinteger[Any]]], edit: Edit) -> None:
    """The edit in label maps per class."""
    new = max(labels.max() for labels in maps) + 1
    moved = np.any([labels == edit.moved for labels in maps], axis=0)
    for labels in maps:
        labels[(labels == edit.moved) | (labels == edit.removed)] = 0
    maps[edit.to][moved] = edit.moved
    maps[edit.added.number][edit.added.mask] = new


def edit_cellpose(root: Path, edits: dict[str, Edit]) -> None:
    for name, edit in edits.items():
        paths = [root / "cellpose" / folder / f"{name}_seg.npy" for folder in class_folders(NAMES)]
        contents = [np.load(path, allow_pickle=True).item() for path in paths]
        change_maps([content["masks"] for content in contents], edit)
        for path, content in zip(paths, contents):
            np.save(path, content)


def edit_masks(root: Path, edits: dict[str, Edit]) -> None:
    """Cellpose's label maps, without its own files."""
    for path in root.glob("cellpose/*/*_seg.npy"):
        path.unlink()
    for name, edit in edits.items():
        paths = [root / "cellpose" / folder / f"{name}_cp_masks.png" for folder in class_folders(NAMES)]
        maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
        change_maps(maps, edit)
        for path, labels in zip(paths, maps):
            assert cv2.imwrite(str(path), labels)


def edit_labels(root: Path, edits: dict[str, Edit], folder: str = "labels") -> None:
    for name, edit in edits.items():
        paths = [root / folder / name / f"class{number}.tif" for number in range(1, len(NAMES) + 1)]
        maps = [tifffile.imread(path) for path in paths]
        change_maps(maps, edit)
        for path, labels in zip(paths, maps):
            tifffile.imwrite(path, labels)


def edit_samples(root: Path, edits: dict[str, Edit]) -> None:
    """Label maps moved to where the converter's first format has them."""
    (root / "labels").rename(root / "train")
    for name in edits:
        shutil.copyfile(root / "images" / f"{name}.tif", root / "train" / name / "image.tif")
    edit_labels(root, edits, "train")


def plain(names: list[str]) -> list[str]:
    return [as_file_name(name) for name in names]


def numbered(names: list[str]) -> list[str]:
    return [f"class{number}" for number, _ in enumerate(names, start=1)]


@dataclass(frozen=True)
class Format:
    """How a format is exported, edited and read.

    Attributes:
        reader: its name at ``convert --format``.
        folder: where it is exported to.
        edit: makes the edits, by image.
        names: what it calls the classes.
        has_overlaps: whether cells of one class may share pixels.
        goes_on: whether ids go on from one image to the next.
    """

    reader: str
    folder: str
    edit: Callable[[Path, dict[str, Edit]], None]
    names: Callable[[list[str]], list[str]] = list
    has_overlaps: bool = True
    goes_on: bool = False

    def ids(self, everything: dict[str, Cells], edited: dict[str, Cells]) -> dict[str, Cells]:
        """Edited cells by the ids that the format has for them, given the cells that were exported."""
        if not self.goes_on:
            return edited
        firsts = np.cumsum([0, *(len(cells) for cells in everything.values())]).tolist()
        wanted: dict[str, Cells] = {}
        for place, (image, cells) in enumerate(edited.items()):
            ids = {
                label: firsts[place] + label if label in everything[image] else firsts[-1] + place + 1
                for label in cells
            }
            wanted[image] = {ids[label]: cell for label, cell in cells.items()}
        return wanted


FORMATS = {
    "coco-dataset": Format("coco-export", "annotations", edit_coco, goes_on=True),
    "geojson": Format("qupath", "geojson", edit_geojson),
    "geojson as annotation": Format("qupath", "editable/geojson", edit_geojson),
    "rois": Format("imagej", "rois", edit_rois, plain),
    "labelme": Format("labelme", "labelme", edit_labelme),
    "cellpose": Format("cellpose:class_from=folder", "cellpose", edit_cellpose, class_folders, has_overlaps=False),
    "cellpose masks": Format("cellpose:class_from=folder", "cellpose", edit_masks, class_folders, has_overlaps=False),
    "labels": Format("labels", "labels", edit_labels, has_overlaps=False),
    "labels in the input layout": Format("class-tiffs", "labels", edit_samples, numbered, has_overlaps=False),
}


def check(root: Path, form: Format, wanted: dict[str, Cells]) -> None:
    """Asserts that a folder has just these cells, by their ids, classes and pixels."""
    names, found = form.names(NAMES), dict(read(root, form.reader))
    assert found.keys() == wanted.keys()
    for image, cells in wanted.items():
        assert sorted(found[image]) == sorted(cells), image
        for label, (class_name, mask) in found[image].items():
            assert class_name == names[cells[label].number], (image, label)
            assert np.array_equal(mask, cells[label].mask), (image, label)


@pytest.mark.parametrize("name", FORMATS)
def test_corrected_cells_come_back_and_all_others_stay_as_they_were(name, truth, tmp_path):
    """Of each image one cell is removed, one is of another class, and one is new; nothing else differs."""
    source, everything = truth
    form = FORMATS[name]
    os.symlink(source / "images", tmp_path / "images")
    shutil.copyfile(source / RESULTS_RECORD, tmp_path / RESULTS_RECORD)
    shutil.copytree(source / form.folder, tmp_path / Path(form.folder).name)
    shown = everything if form.has_overlaps else {image: painted(cells) for image, cells in everything.items()}
    if form.reader != "class-tiffs":  # which lie in another place when they are read
        check(tmp_path, form, form.ids(everything, shown))
    edits = {image: Edit.of(cells) for image, cells in shown.items()}
    form.edit(tmp_path, edits)
    edited = {image: edit.on(shown[image], max(shown[image]) + 1) for image, edit in edits.items()}
    check(tmp_path, form, form.ids(everything, edited))


def test_what_the_page_shows_converts_the_folder_that_predict_wrote(truth, repo_root, tmp_path):
    """Its blocks run one after the other, but for the one that predicts and trains; large tiles cut no cell."""
    source, everything = truth
    shutil.copytree(source, tmp_path / "corrected")
    page = (repo_root / "docs" / "corrections.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    script = "".join(block for block in blocks if "cellseg-d2 train" not in block)
    formats = [form.reader for form in FORMATS.values() if form.reader != "class-tiffs"]
    assert set(re.findall(r"--format (\S+)", script)) == set(formats)
    script = re.sub(r"(--format (\w+-?\w+).*) datasets/corrected", r"\1 \2 --tile-size 4000 --val-fraction 0", script)
    command = f'set -e; cellseg-d2() {{ "{sys.executable}" -m cellseg_d2 "$@"; }}\n'
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    done = subprocess.run(
        ["bash", "-c", command + script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = Counter(NAMES[cell.number] for cells in everything.values() for cell in cells.values())
    for form in formats:
        found = read_json(tmp_path / form.partition(":")[0] / "dataset.json")["counts"]["train"]["cells"]
        assert {name.replace("_", ":"): count for name, count in found.items()} == counts
