"""A folder of images, predicted by a stand-in model: what is written, and that a stopped run goes on."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import tifffile
from detectron2.engine import launch
from drawing import discs
from ground_truth_model import BlobModel, predict_in_a_process

from cellseg_d2.config import get_cfg
from cellseg_d2.data.samples import list_images
from cellseg_d2.errors import CellSegError
from cellseg_d2.inference.folder import FORMATS, Output, predict_images
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
    counts = predict_images(_predictor(), images, Output(tmp_path / "out", FORMATS, pack=True))
    names = [f"image{number}" for number in range(3)]
    expected = {"test-results.json", "test-results.zip", "image_ids.json"}
    expected |= {f"{folder}/{name}.{suffix}" for name in names for folder, suffix in
                 [("geojson", "geojson"), ("rois", "zip"), ("csv", "csv"), ("overlays", "png")]}  # fmt: skip
    expected |= {f"labels/{name}/{file}.tif" for name in names for file in ("labels", "class1")}
    assert set(_read(tmp_path / "out")) == expected
    results = json.loads((tmp_path / "out" / "test-results.json").read_text())
    assert len(results) == counts["nucleus"] > 6
    table = pd.read_csv(tmp_path / "out" / "csv" / "image0.csv")
    assert table["area_um2"].tolist() == pytest.approx((table["area_px"] / 4).tolist())  # 0.5 um a pixel
    assert table["mean_red"].min() > 127


def test_only_what_is_asked_for_is_written(images, tmp_path):
    predict_images(_predictor(), images, Output(tmp_path / "out", ("csv",)))
    assert set(_read(tmp_path / "out")) == {f"csv/image{number}.csv" for number in range(3)}


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


def test_a_run_with_other_settings_begins_anew(images, tmp_path):
    with pytest.raises(RuntimeError):
        predict_images(_predictor(model=_Stops()), images, Output(tmp_path))
    model = BlobModel()
    predict_images(_predictor("CELLSEG.INFERENCE.OVERLAP", "0.5", model=model), images, Output(tmp_path))
    assert len(model.calls) == 3


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
            as_is = plain.predict(regions)
        assert f"look {trained / 0.5:.2g} times as large" in caplog.text
        caplog.clear()
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
    launch(predict_in_a_process, 2, dist_url="auto", args=(images, together, shared_tiles))
    one, two = _read(alone.folder), _read(together.folder)
    calls = [int(two.pop(f"calls{rank}")) for rank in range(2)]
    assert sum(calls) == int(one.pop("calls0"))
    assert min(calls) > 0
    assert one == two
