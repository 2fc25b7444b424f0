"""The drawn slide is a tiled TIFF with the cells that it says; stages are timed apart, whatever the thread."""

import threading

import numpy as np
import pytest
import tifffile
import torch
from detectron2.modeling import build_model
from scipy import ndimage

from benchmarks.slide import DRAWN, REGION, Faults, compare, model_config, write_slide
from benchmarks.stages import Stages


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    return path, write_slide(path, 3 * REGION + 100)


def test_a_slide_has_the_cells_that_it_says(slide):
    path, drawn = slide
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert (page.is_tiled, page.shape) == (True, (3 * REGION + 100, 3 * REGION + 100, 3))
        dark = page.asarray()[..., 0] < 150
    labels, _ = ndimage.label(dark)
    sizes = np.bincount(labels.ravel())[1:]
    boxes = [window for window, size in zip(ndimage.find_objects(labels), sizes) if size >= 30]
    found = np.array([((x.start + x.stop) / 2, (y.start + y.stop) / 2) for y, x in boxes])
    assert len(drawn) == len(found) > DRAWN
    assert compare(drawn, found) == Faults(lost=0, doubled=0)


def test_lost_and_doubled_cells_are_counted():
    drawn = np.array([[10.0, 10], [50, 50], [90, 90]])
    found = np.array([[11.0, 10], [50, 51], [50, 49], [200, 200]])
    assert compare(drawn, found) == Faults(lost=1, doubled=1)
    assert compare(drawn, found[:0]) == Faults(lost=3, doubled=0)


def test_the_stand_in_finds_what_is_dark():
    image = np.full((3, 64, 64), 200, np.uint8)
    image[:, 10:20, 30:45] = image[:, 40:50, 5:15] = 100
    image[:, 60, 60] = 0  # too small for a cell
    (found,) = build_model(model_config()).inference([{"image": torch.from_numpy(image)}], do_postprocess=False)
    assert found.pred_boxes.tensor.tolist() == [[30, 10, 45, 20], [5, 40, 15, 50]]
    assert (found.pred_masks == 1).all()
    (pasted,) = build_model(model_config()).inference([{"image": torch.from_numpy(image)}])
    assert pasted["instances"].pred_masks.sum(dim=(1, 2)).tolist() == [150, 100]


def test_a_stage_inside_another_counts_for_itself_in_each_thread():
    clock = threading.local()

    def work(seconds):
        clock.now = getattr(clock, "now", 0) + seconds

    def told():
        return getattr(clock, "now", 0)

    stages = Stages(told)
    inner = stages.timed(lambda: work(20), "inner")
    outer = stages.timed(lambda: (work(5), inner(), work(7)), "outer")
    thread = threading.Thread(target=inner)
    thread.start()
    outer()
    thread.join()
    assert stages.seconds == {"inner": 40, "outer": 12}
