"""Outlines drawn back by OpenCV, and what is missed and spurious in them."""

import json
import re

import cv2
import numpy as np
import pytest
import tifffile
from coco_cases import NAMES, draw_case
from drawing import noise

from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_cells import image_cells
from cellseg_d2.evaluation.coco_matching import unmatched
from cellseg_d2.evaluation.image_scores import image_scores
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.export.overlay import PALETTE
from cellseg_d2.images.tiff import INTENSITY_RULE
from cellseg_d2.report.gallery import TOLERANCE, ImageFiles, draw_gallery, outline_path

ABOVE = Selection(NAMES, 0.4)


def points_of(path):
    """Rings of (n, 2) points, float64."""
    rings = []
    for start, steps in re.findall(r"M([^l]*)l([^z]*)z", path):
        rings.append(np.cumsum(np.array(f"{start} {steps}".split(), float).reshape(-1, 2), axis=0))
    assert path == "" or "".join(re.findall(r"M[^z]*z", path)) == path
    return rings


def fill(path, shape, zoom):
    """(H * zoom, W * zoom) bool by the even-odd rule."""
    drawn = np.zeros((shape[0] * zoom, shape[1] * zoom), np.uint8)
    rings = [np.rint(zoom * ring - 0.5).astype(np.int32) for ring in points_of(path)]
    return cv2.fillPoly(drawn, rings, 1) > 0


@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize("hole", [False, True])
def test_an_outline_is_off_by_the_tolerance_at_most(scale, hole):
    y, x = np.mgrid[:60, :80]
    distance = np.hypot((x - 40) / 1.4, y - 30)
    mask = (distance < 24) & ~(hole & (distance < 10))
    path = outline_path(mask[4:58, 3:78], np.array([3, 4]), scale)
    zoom = 10
    shown = cv2.resize(mask.astype(np.uint8), None, fx=zoom * scale, fy=zoom * scale, interpolation=cv2.INTER_NEAREST)
    drawn = fill(path, (round(60 * scale), round(80 * scale)), zoom)
    border = cv2.Canny(shown, 0, 1)
    near = cv2.distanceTransform((border == 0).astype(np.uint8), cv2.DIST_L2, 5) <= zoom * (TOLERANCE + 0.1) + 2
    assert len(points_of(path)) == 1 + hole
    assert near[drawn != (shown > 0)].all()
    assert len(path) < 300 * (1 + hole)
    assert all(abs(10 * number - round(10 * number)) < 1e-6 for number in map(float, re.findall(r"[-.\d]+", path)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2)])
def test_the_smallest_cells_keep_their_area(size):
    (ring,) = points_of(outline_path(np.ones(size, bool), np.array([5, 7]), 1))
    assert cv2.contourArea(ring.astype(np.float32)) == size[0] * size[1]
    assert ring.min(axis=0).tolist() == [5, 7]


def draw(truth, results, **options):
    options = {"files": None, "selection": ABOVE, "max_detections": 1000, "max_side": 1024} | options
    return list(draw_gallery(truth, results, [image["id"] for image in truth["images"]], **options))


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_picture_counts_as_the_table_of_images_does(most):
    truth, results = draw_case(1)
    pictures = draw(truth, results, max_detections=most)
    cells = judge_results(truth, results, most, ABOVE).cells
    assert [picture.score for picture in pictures] == image_scores(cells)


def test_kinds_titles_and_colours_are_those_of_the_cells():
    truth, results = draw_case(1)
    for picture, image in zip(draw(truth, results), image_cells(truth, results), strict=True):
        predictions = image.predictions.selected(ABOVE)
        missed, spurious = unmatched(image.truth, predictions)
        assert picture.score.missed == len(missed) == sum(own.kind == "missed" for own in picture.truth)
        assert picture.score.spurious == len(spurious) == sum(own.kind == "spurious" for own in picture.predictions)
        assert [own.kind == "crowd" for own in picture.truth] == image.truth.crowd.tolist()
        assert (picture.score.name, picture.uri, picture.width, picture.height) == (image.name, None, 64, 64)
        for number, own in enumerate(picture.truth):
            name = NAMES[image.truth.classes[number]]
            assert own.title.endswith(f"{name}, {image.truth.areas[number]} px")
            assert (own.title.startswith("missed: "), own.title.startswith("not judged: ")) == (
                number in missed,
                bool(image.truth.crowd[number]),
            )
            assert own.color == "#{:02x}{:02x}{:02x}".format(*PALETTE[image.truth.classes[number]])
        assert len(picture.predictions) == len(predictions) < len(image.predictions) or not len(image.predictions)
        for number, own in enumerate(picture.predictions):
            assert f"score {predictions.scores[number]:.2f}, " in own.title
            assert (own.kind == "spurious") == (number in spurious)
    assert any(picture.score.spurious for picture in draw(truth, results))


def test_larger_pictures_are_shown_smaller():
    truth, results = draw_case(0)
    (whole, *_), (half, *_) = draw(truth, results, max_side=None), draw(truth, results, max_side=32)
    assert (whole.width, half.width, half.height) == (64, 32, 32)
    for large, small in zip(whole.truth, half.truth, strict=True):
        extents = [np.concatenate(points_of(own.path)).max(axis=0) for own in (large, small)]
        np.testing.assert_allclose(extents[0] / 2, extents[1], atol=2 * TOLERANCE)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("4.tif", "9.tif", "12.tif"):
        tifffile.imwrite(tmp_path / name, noise(rng, 64, 64))
    return tmp_path


def with_files(folder, ids=None):
    truth, results = draw_case(0)
    for image in truth["images"]:
        image["file_name"] = f"some/folder/{image['id']}.tif"
    return draw(truth, results, files=ImageFiles.find(folder, ids, INTENSITY_RULE))


def test_images_are_found_by_id_or_else_by_name(folder, tmp_path_factory):
    named = [picture.uri for picture in with_files(folder)]
    assert len(set(named)) == 3 and all(uri.startswith("data:image/jpeg;base64,") for uri in named)
    ids = tmp_path_factory.mktemp("ids") / "ids.json"
    numbers = {"4.tif": 9, "9.tif": 4, "12.tif": 12}
    ids.write_text(json.dumps([{"file_name": name, "id": number} for name, number in numbers.items()]))
    assert [picture.uri for picture in with_files(folder, ids)] == [named[1], named[0], named[2]]


def test_an_image_that_is_missing_or_of_another_size_is_named(folder):
    tifffile.imwrite(folder / "9.tif", noise(np.random.default_rng(0), 64, 60))
    with pytest.raises(CellSegError, match=r"9\.tif: is 64 x 60, its masks are 64 x 64"):
        with_files(folder)
    (folder / "9.tif").unlink()
    with pytest.raises(CellSegError, match=r"holds no image '9\.tif', which the ground truth lists"):
        with_files(folder)
