"""Several processes share the tiles of one image: each reads and predicts its part, of all or of a region."""

import json
from unittest import mock

import numpy as np
import pytest
import tifffile
from drawing import discs, read_folder
from ground_truth_model import BlobModel, predict_in_a_process, predict_in_two_processes
from hypothesis import given
from hypothesis import strategies as st
from image_layouts import by_windows

from cellseg_d2.cells.tiling import TileGrid
from cellseg_d2.config import get_cfg
from cellseg_d2.images.formats import open_image
from cellseg_d2.images.listing import list_images
from cellseg_d2.images.planes import Plane
from cellseg_d2.inference.folder import Output
from cellseg_d2.inference.predictor import WholeImagePredictor, share_of
from cellseg_d2.inference.region import read_region, with_regions

SIDE = 400
CORNER = [[5, 5], [180, 5], [180, 150], [5, 150], [5, 5]]
BLOCK = 16


@pytest.fixture
def images(tmp_path):
    """An image with bright discs, a tiled TIFF."""
    (tmp_path / "images").mkdir()
    bright = discs(np.random.default_rng(0), SIDE, SIDE, 90, radius=9) > 0
    pixels = np.repeat((bright * 200).astype(np.uint8)[..., None], 3, axis=2)
    options = {"photometric": "rgb", "tile": (BLOCK, BLOCK), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "images" / "slide.tif", pixels, **options)
    return list_images(tmp_path / "images", None)


def in_the_corner(images, tmp_path):
    geometry = {"type": "Polygon", "coordinates": [CORNER]}
    corner = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    path = tmp_path / "corner.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [corner]}))
    return with_regions(images, path)


def predictor():
    keys = ["CELLSEG.CLASS_NAMES", "['nucleus']", "CELLSEG.INFERENCE.TILE_SIZE", "48"]
    return WholeImagePredictor(BlobModel(), get_cfg("mask_rcnn_lite0_FPN", keys))


@given(st.integers(0, 400), st.integers(1, 9))
def test_each_tile_is_of_one_process_and_all_have_about_as_many(count, parts):
    shares = [share_of(range(count), part, parts) for part in range(parts)]
    assert sorted(tile for share in shares for tile in share) == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 8


def test_a_process_reads_its_windows_only_and_neighbours_together(images):
    def decoded(part, parts):
        with by_windows(), open_image(images[0].path) as image:
            assert image._source.block == (BLOCK, BLOCK)
            with mock.patch.object(Plane, "cut", autospec=True, side_effect=Plane.cut) as decode:
                list(predictor().pieces(image, part=part, parts=parts))
        return {call.args[2] for call in decode.call_args_list}

    blocks = (SIDE // BLOCK) ** 2
    shares = [decoded(part, 2) for part in range(2)]
    assert len(decoded(0, 1)) == blocks == len(shares[0] | shares[1])
    assert all(len(share) < 0.85 * blocks for share in shares)


def test_both_processes_get_half_of_a_regions_tiles(images, tmp_path):
    chosen = in_the_corner(images, tmp_path)
    region = read_region(chosen[0].region, (SIDE, SIDE))
    touched = [tile for tile in TileGrid(SIDE, SIDE, 48, 0.25) if region.touches(tile.window)]
    alone, together = Output(tmp_path / "alone"), Output(tmp_path / "together")
    predict_in_a_process(chosen, alone, 5)
    predict_in_two_processes(chosen, together, 5)
    one, two = read_folder(alone.folder), read_folder(together.folder)
    calls = [int(two.pop(f"calls{rank}")) for rank in range(2)]
    assert sum(calls) == int(one.pop("calls0")) == len(touched)
    assert abs(calls[0] - calls[1]) <= len(touched) / 5
    assert one == two


def test_an_image_with_a_small_region_is_one_processes(images, tmp_path):
    chosen = in_the_corner(images, tmp_path)
    predict_in_two_processes(chosen, Output(tmp_path / "out"), 20)  # over 40 tiles are shared
    assert len(TileGrid(SIDE, SIDE, 48, 0.25)) > 40
    calls = [int((tmp_path / "out" / f"calls{rank}").read_text()) for rank in range(2)]
    assert min(calls) == 0 < max(calls) <= 40
