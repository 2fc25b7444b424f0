"""A folder of images, predicted by a stand-in model: what is written, and that a stopped run goes on."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from detectron2.structures import Instances
from drawing import discs
from ground_truth_model import BlobModel, predict_in_a_process, predict_in_two_processes

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.formats import FORMATS
from cellseg_d2.images.listing import list_images
from cellseg_d2.inference.folder import Output, predict_images
from cellseg_d2.inference.predictor import WholeImagePredictor


def _predictor(*opts, model=None):
    cfg = get_cfg("mask_rcnn_lite0_FPN", ["CELLSEG.CLASS_NAMES", "['nucleus']", *opts])
    return WholeImagePredictor(model or BlobModel(), cfg)


@pytest.fixture
def images(tmp_path):
    """Three images with bright discs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        bright = discs(np.random.default_rng(number), 60, 80, 4, radius=9) > 0
        pixels = np.repeat((bright * 200).astype(np.uint8)[..., None], 3, axis=2)
        stated = {"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}  # 0.5 um
        tifffile.imwrite(folder / f"image{number}.tif", pixels, photometric="rgb", **stated)
    return list_images(folder, None)


def _read(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_format_is_written_for_every_image(images, tmp_path):
    summary = predict_images(_predictor(), images, Output(tmp_path / "out", FORMATS, pack=True))
    names = [f"image{number}" for number in range(3)]
    expected = {"test-results.json", "test-results.zip", "image_ids.json", "counts.csv", "prediction.json"}
    expected |= {f"{folder}/{name}.{suffix}" for name in names for folder, suffix in
                 [("geojson", "geojson"), ("rois", "zip"), ("csv", "csv"), ("overlays", "png"),
                  ("labelme", "json")]}  # fmt: skip
    expected |= {f"cellpose/nucleus/{name}_{end}" for name in names for end in ("seg.npy", "cp_masks.png")}
    expected |= {"annotations/instances_default.json"}
    expected |= {f"labels/{name}/{file}.tif" for name in names for file in ("labels", "class1")}
    assert set(_read(tmp_path / "out")) == expected
    results = json.loads((tmp_path / "out" / "test-results.json").read_text())
    assert len(results) == summary.results == summary.counts["nucleus"] > 6
    table = pd.read_csv(tmp_path / "out" / "csv" / "image0.csv")
    assert table["area_um2"].tolist() == pytest.approx((table["area_px"] / 4).tolist())  # 0.5 um a pixel
    assert table["mean_red"].min() > 127


def test_only_what_is_asked_for_is_written(images, tmp_path):
    predict_images(_predictor(), images, Output(tmp_path / "out", ("csv",)))
    tables = {f"csv/image{number}.csv" for number in range(3)}
    assert set(_read(tmp_path / "out")) == {*tables, "counts.csv", "prediction.json"}


@pytest.mark.parametrize(
    ("output", "rows"),
    [({"min_score": 0.95}, 0), ({"min_score": 0.1}, 1), ({"min_score": 0.1, "min_score_of_class": {"nucleus": 1}}, 0)],
)
def test_cells_of_low_score_are_in_the_coco_file_only(output, rows, images, tmp_path):
    predict_images(_predictor(), images[:1], Output(tmp_path, ("coco", "csv"), **output))
    assert bool(len(pd.read_csv(tmp_path / "csv" / "image0.csv"))) == bool(rows)
    assert json.loads((tmp_path / "test-results.json").read_text())


class _Stops(BlobModel):
    """Fails at the second image, as a machine that is switched off."""

    def inference(self, inputs, do_postprocess):
        if len(self.calls) == 1:
            raise RuntimeError("switched off")
        return super().inference(inputs, do_postprocess)


def test_a_stopped_run_goes_on_with_the_images_that_are_missing(images, tmp_path, caplog):
    output, whole = Output(tmp_path / "out", FORMATS), Output(tmp_path / "whole", FORMATS)
    with pytest.raises(RuntimeError, match="switched off"):
        predict_images(_predictor(model=_Stops()), images, output)
    assert not (output.folder / "test-results.json").exists()
    model = BlobModel()
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        predict_images(_predictor(model=model), images, output)
    assert len(model.calls) == 2
    assert "1 of 3 images are done already" in caplog.text
    predict_images(_predictor(), images, whole)
    assert _read(output.folder) == _read(whole.folder)


def test_a_run_with_other_settings_neither_goes_on_nor_removes_what_is_done(images, tmp_path):
    with pytest.raises(RuntimeError):
        predict_images(_predictor(model=_Stops()), images, Output(tmp_path))
    before = _read(tmp_path)
    with pytest.raises(CellSegError, match="holds an unfinished prediction of other settings or weights"):
        predict_images(_predictor("CELLSEG.INFERENCE.OVERLAP", "0.5"), images, Output(tmp_path))
    assert _read(tmp_path) == before


def test_a_foreign_folder_of_the_name_is_left_alone(images, tmp_path):
    (tmp_path / "out" / ".parts").mkdir(parents=True)
    (tmp_path / "out" / ".parts" / "thesis.txt").write_text("years of work")
    with pytest.raises(CellSegError, match=r"\.parts: is no part of a prediction; remove it"):
        predict_images(_predictor(), images, Output(tmp_path / "out"))
    assert _read(tmp_path / "out") == {".parts/thesis.txt": b"years of work"}


def test_images_that_came_or_changed_while_a_run_was_stopped_are_predicted(images, tmp_path):
    folder, output = images[0].path.parent, Output(tmp_path / "out", ("coco",))
    with pytest.raises(RuntimeError):
        predict_images(_predictor(model=_Stops()), images, output)
    tifffile.imwrite(folder / "a_new.tif", np.zeros((30, 30, 3), np.uint8), photometric="rgb")  # takes the first id
    model = BlobModel()
    predict_images(_predictor(model=model), list_images(folder, None), output)
    assert len(model.calls) == 4
    predict_images(_predictor(), list_images(folder, None), Output(tmp_path / "whole", ("coco",)))
    assert _read(output.folder) == _read(tmp_path / "whole")


def test_images_whose_results_would_have_one_name_are_refused(images):
    folder = images[0].path.parent
    (folder / "image0.ome.tif").write_bytes(images[0].path.read_bytes())
    with pytest.raises(CellSegError, match="has the name of"):
        list_images(folder, None)


@pytest.mark.parametrize(("suppressed", "rows"), [("none", 2), ("hard", 1), ("soft", 1)])
def test_each_class_keeps_its_own_least_score(suppressed, rows, images, tmp_path):
    """Two classes see each cell: the second guess has a score that is enough for its class, but not once lowered."""

    class TwoClasses(BlobModel):
        def instances_of(self, image):
            once = super().instances_of(image)[:1]
            once.scores = torch.tensor([0.9])
            other = Instances(once.image_size, **once.get_fields())
            other.scores, other.pred_classes = torch.tensor([0.85]), torch.tensor([1])
            return Instances.cat([once, other])

    names = ["CELLSEG.CLASS_NAMES", "['a', 'b']", "CELLSEG.INFERENCE.SUPPRESSION", suppressed]
    output = Output(tmp_path, ("coco", "csv"), min_score=0.1, min_score_of_class={"b": 0.8})
    predict_images(_predictor(*names, model=TwoClasses()), images[:1], output)
    assert len(pd.read_csv(tmp_path / "csv" / "image0.csv")) == rows
    assert len(json.loads((tmp_path / "test-results.json").read_text())) == 2  # AP wants both


@pytest.mark.parametrize("score", [-0.1, 50])
def test_a_least_score_is_a_share(score, tmp_path):
    with pytest.raises(CellSegError, match="from 0 to 1"):
        Output(tmp_path, min_score=score)


def test_a_finished_run_is_done_again_when_asked_for(images, tmp_path):
    model = BlobModel()
    for _ in range(2):
        predict_images(_predictor(model=model), images, Output(tmp_path))
    assert len(model.calls) == 6


def test_a_folder_that_cannot_be_written_to_is_named(images, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CellSegError, match="file: cannot be written to"):
        predict_images(_predictor(), images, Output(tmp_path / "file"))


@pytest.mark.parametrize("trained", [0.25, 1.0])
def test_another_pixel_size_is_said_and_with_rescale_evened_out(trained, images, tmp_path, caplog):
    plain, rescaled = _predictor(), _predictor("CELLSEG.INFERENCE.RESCALE", "True", model=BlobModel())
    for predictor in (plain, rescaled):
        predictor.cfg.CELLSEG.PIXEL_SIZE_UM = trained
    with images[0].open("percentile:0.1,99.9") as regions:
        with caplog.at_level(logging.WARNING, "cellseg_d2"):
            plain.warn_of_scale(regions, images[0].path)
        as_is = plain.predict(regions)
        assert str(images[0].path) in caplog.text
        assert f"look {trained / 0.5:.2g} times as large" in caplog.text
        caplog.clear()
        rescaled.warn_of_scale(regions, images[0].path)
        mapped = rescaled.predict(regions)
    assert not caplog.records
    side = round(0.5 / trained * 60), round(0.5 / trained * 80)
    assert rescaled.model.calls == [[side]]
    assert len(mapped) == len(as_is)
    for one, other in zip(sorted(as_is.areas), sorted(mapped.areas)):
        assert other == pytest.approx(one, rel=0.25, abs=12)
    np.testing.assert_allclose(mapped.mask_boxes, as_is.mask_boxes, atol=2)


def test_rescaling_needs_both_pixel_sizes(images):
    predictor = _predictor("CELLSEG.INFERENCE.RESCALE", "True")
    with images[0].open("percentile:0.1,99.9") as regions, pytest.raises(CellSegError, match="--pixel-size"):
        predictor.predict(regions)


def test_a_pixel_size_that_is_given_wins(images):
    predictor = _predictor("CELLSEG.INFERENCE.RESCALE", "True", "CELLSEG.INFERENCE.PIXEL_SIZE_UM", "0.3")
    predictor.cfg.CELLSEG.PIXEL_SIZE_UM = 0.3
    with images[0].open("percentile:0.1,99.9") as regions:
        predictor.predict(regions)
    assert predictor.model.calls == [[(60, 80)]]


@pytest.mark.parametrize("shared_tiles", [0, 100], ids=["tiles are shared", "images are shared"])
def test_two_processes_find_what_one_finds(shared_tiles, images, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    alone, together = Output(tmp_path / "alone"), Output(tmp_path / "together")
    predict_in_a_process(images, alone, shared_tiles)
    predict_in_two_processes(images, together, shared_tiles)
    one, two = _read(alone.folder), _read(together.folder)
    calls = [int(two.pop(f"calls{rank}")) for rank in range(2)]
    assert sum(calls) == int(one.pop("calls0"))
    assert min(calls) > 0
    assert one == two


def test_images_in_folders_below_have_results_in_the_same_tree(images, tmp_path):
    folder = images[0].path.parent
    for place in ("one", "two/deep"):
        (folder / place).mkdir(parents=True)
    images[0].path.rename(folder / "one" / "same.tif")
    images[1].path.rename(folder / "two" / "deep" / "same.tif")
    predict_images(_predictor(), list_images(folder, None), Output(tmp_path / "out", FORMATS))
    names = ["image2", "one/same", "two/deep/same"]
    written = set(_read(tmp_path / "out"))
    for kind, suffix in (("geojson", ".geojson"), ("rois", ".zip"), ("csv", ".csv"), ("overlays", ".png")):
        assert {f"{kind}/{name}{suffix}" for name in names} <= written
    assert {f"labels/{name}/labels.tif" for name in names} <= written
    entries = json.loads((tmp_path / "out" / "image_ids.json").read_text())
    assert [entry["file_name"] for entry in entries] == [f"{name}.tif" for name in names]
    counts = pd.read_csv(tmp_path / "out" / "counts.csv").set_index("image")["cells"]
    for name in names:
        table = pd.read_csv(tmp_path / "out" / "csv" / f"{name}.csv")
        assert set(table["image"]) == {f"{name}.tif"}
        assert len(table) == counts[f"{name}.tif"]
    assert [image.id for image in list_images(folder, tmp_path / "out" / "image_ids.json")] == [1, 2, 3]


@pytest.fixture
def damaged(images):
    """The same images, the second of them cut off; and one that goes away after it was listed."""
    images[1].path.write_bytes(images[1].path.read_bytes()[:200])
    gone = images[0].path.with_name("gone.tif")
    gone.write_bytes(b"")
    listed = list_images(gone.parent, None)
    gone.unlink()
    return listed


def test_images_that_cannot_be_read_are_skipped_and_listed(damaged, tmp_path):
    output = Output(tmp_path / "out", FORMATS, skip_errors=True)
    summary = predict_images(_predictor(), damaged, output)
    skipped = json.loads((output.folder / "skipped.json").read_text())
    assert [own["file_name"] for own in skipped] == ["gone.tif", "image1.tif"]
    assert [own["id"] for own in skipped] == [1, 3]
    assert all(own["file_name"] in own["reason"] for own in skipped)
    assert [own.file_name for own in summary.skipped] == ["gone.tif", "image1.tif"]
    good = [damaged[1], damaged[3]]
    alone = Output(tmp_path / "alone", FORMATS)
    assert predict_images(_predictor(), good, alone).counts == summary.counts
    left, expected = _read(output.folder), _read(alone.folder)
    del left["skipped.json"]
    assert left == expected


def test_by_default_an_image_that_cannot_be_read_ends_the_run(damaged, tmp_path):
    with pytest.raises(CellSegError, match=r"gone\.tif"):
        predict_images(_predictor(), damaged, Output(tmp_path / "out"))


def test_a_file_that_cannot_be_written_is_no_image_that_cannot_be_read(images, tmp_path):
    (tmp_path / "csv").write_text("in the way")
    with pytest.raises(CellSegError, match=r"image0\.csv: cannot be written"):
        predict_images(_predictor(), images, Output(tmp_path, ("csv",), skip_errors=True))


def test_images_none_of_which_can_be_read_are_an_error(damaged, tmp_path):
    with pytest.raises(CellSegError, match=r"none of the 2 images can be read; the first: .*gone\.tif"):
        predict_images(_predictor(), [damaged[0], damaged[2]], Output(tmp_path / "out", skip_errors=True))


def test_skipped_images_are_tried_again_and_the_list_of_an_earlier_run_goes(images, tmp_path):
    whole = images[1].path.read_bytes()
    images[1].path.write_bytes(whole[:200])
    output = Output(tmp_path / "out", skip_errors=True)
    assert predict_images(_predictor(), images, output).images == 2
    images[1].path.write_bytes(whole)
    assert predict_images(_predictor(), images, output).skipped == []
    assert not (tmp_path / "out" / "skipped.json").exists()


@pytest.mark.parametrize("shared_tiles", [0, 100], ids=["tiles are shared", "images are shared"])
def test_two_processes_skip_what_one_skips(shared_tiles, damaged, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    alone = Output(tmp_path / "alone", skip_errors=True)
    together = Output(tmp_path / "together", skip_errors=True)
    predict_in_a_process(damaged, alone, shared_tiles)
    predict_in_two_processes(damaged, together, shared_tiles)
    one, two = _read(alone.folder), _read(together.folder)
    for rank in range(2):
        one.pop(f"calls{rank}", None), two.pop(f"calls{rank}")
    assert one == two
    assert len(json.loads(two["skipped.json"])) == 2
