"""Channels that are picked out of an image, by their names or numbers, from files of every kind."""

import json

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from image_layouts import by_windows, write_zarr

from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import Channels, PixelRule, as_picture
from cellseg_d2.images.formats import image_header, open_image, read_whole
from cellseg_d2.images.regions import BlockImage
from cellseg_d2.images.tiff import INTENSITY_RULE

RNG = np.random.default_rng(0)
FIVE = RNG.integers(0, 256, (5, 75, 109), dtype=np.uint8)
DEEP = (RNG.integers(0, 256, (5, 75, 109)) * np.array([1, 7, 90, 200, 3])[:, None, None]).astype(np.uint16)
NAMES = ["DAPI", "CD3", "CD8", "Ki67", "CD3 again"]

LAYOUTS = {
    "OME": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": NAMES}}},
    "OME, tiles": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": NAMES}}, "tile": (16, 32)},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX", "Labels": NAMES}},
    "ImageJ, strips": {"imagej": True, "metadata": {"axes": "CYX", "Labels": NAMES}, "compression": "zlib"},
    "pages": {"photometric": "minisblack"},
    "planar": {"photometric": "minisblack", "planarconfig": "separate"},
    "interleaved": {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 32)},
}
NAMED = [name for name in LAYOUTS if "OME" in name or "ImageJ" in name]


def rule(*channels):
    return PixelRule(INTENSITY_RULE, channels)


def write(path, pixels, layout):
    options = LAYOUTS[layout]
    stored = np.moveaxis(pixels, 0, 2) if options.get("planarconfig") == "contig" else pixels
    tifffile.imwrite(path, stored, **options)
    return path


@pytest.mark.parametrize("pixels", [FIVE, DEEP], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_pick_and_order_channels_and_each_is_scaled_by_itself(tmp_path, layout, pixels):
    path = write(tmp_path / "image.tif", pixels, layout)
    found = read_whole(path, rule("3", "0"))
    alone = []
    for place in (3, 0):
        tifffile.imwrite(tmp_path / "grey.tif", pixels[place])
        alone.append(read_whole(tmp_path / "grey.tif")[..., 0])
    assert np.array_equal(found, np.stack(alone, axis=2))
    with by_windows(), open_image(path, rule("3", "0")) as image:
        assert isinstance(image, BlockImage)
        assert image.channels == 2
        assert np.array_equal(image.read((7, 5, 90, 70)), found[5:70, 7:90])
    assert image_header(path).size == (75, 109)


@pytest.mark.parametrize("layout", NAMED)
def test_names_pick_channels(tmp_path, layout):
    found = read_whole(write(tmp_path / "image.tif", FIVE, layout), rule("Ki67", "DAPI", "2"))
    assert np.array_equal(found, np.moveaxis(FIVE[[3, 0, 2]], 0, 2))


def test_a_name_that_is_a_number_counts_before_the_number(tmp_path):
    """Converted datasets keep the numbers of their source as names."""
    options = {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["2", "0"]}}
    tifffile.imwrite(tmp_path / "tile.tif", FIVE[[2, 0]], **options)
    assert np.array_equal(read_whole(tmp_path / "tile.tif", rule("2", "0")), np.moveaxis(FIVE[[2, 0]], 0, 2))


def test_one_channel_is_one_channel(tmp_path):
    assert read_whole(write(tmp_path / "image.tif", FIVE, "OME"), rule("CD8")).shape == (75, 109, 1)
    tifffile.imwrite(tmp_path / "grey.tif", FIVE[0])
    assert np.array_equal(read_whole(tmp_path / "grey.tif", rule("0"))[..., 0], FIVE[0])


def test_the_channels_of_colour_images_have_names(tmp_path):
    rgb = np.moveaxis(FIVE[:3], 0, 2)
    tifffile.imwrite(tmp_path / "image.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "image.ome.tif", rgb, photometric="rgb", ome=True)
    cv2.imwrite(str(tmp_path / "image.png"), rgb[..., ::-1])
    for name in ("image.tif", "image.ome.tif", "image.png"):
        assert np.array_equal(read_whole(tmp_path / name, rule("blue", "0")), rgb[..., [2, 0]])


def test_the_channels_of_ome_zarr_have_labels(tmp_path):
    path = write_zarr(tmp_path / "image.zarr", DEEP, "cyx")
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["omero"] = {"channels": [{"label": name} for name in NAMES]}
    (path / ".zattrs").write_text(json.dumps(attributes))
    tifffile.imwrite(tmp_path / "image.tif", DEEP, **LAYOUTS["OME"])
    wanted = rule("Ki67", "0")
    assert np.array_equal(read_whole(path, wanted), read_whole(tmp_path / "image.tif", wanted))
    assert zarr.open(str(path / "0"), mode="r").shape == DEEP.shape


@pytest.mark.parametrize("by", ["whole", "windows"])
def test_a_channel_that_is_not_there_is_told_with_both_numbers(tmp_path, by):
    path = write(tmp_path / "image.tif", FIVE[:3], "pages")
    message = r"image\.tif: has 3 channels, but no channel '3', one of the 4 that are wanted \(0, 1, 2, 3; numbers"
    with pytest.raises(CellSegError, match=message):
        if by == "whole":
            read_whole(path, rule("0", "1", "2", "3"))
        else:
            with by_windows():
                open_image(path, rule("0", "1", "2", "3"))


def test_names_that_are_not_there_or_twice_are_told(tmp_path):
    path = write(tmp_path / "image.tif", FIVE, "OME")
    with pytest.raises(CellSegError, match=r"5 channels \(DAPI, CD3, CD8, Ki67, CD3 again\), but no channel 'FOXP3'"):
        read_whole(path, rule("FOXP3"))
    options = {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["a", "a"]}}
    tifffile.imwrite(tmp_path / "twice.tif", FIVE[:2], **options)
    with pytest.raises(CellSegError, match=r"twice\.tif: has 2 channels called 'a'; give their numbers"):
        read_whole(tmp_path / "twice.tif", rule("a"))


@pytest.mark.parametrize("channel", ["-1", "5", "9" * 5000, "1.0", ""])
def test_what_is_no_channel_is_refused(tmp_path, channel):
    path = write(tmp_path / "image.tif", FIVE, "pages")
    with pytest.raises(CellSegError, match="has 5 channels, but no channel"):
        read_whole(path, rule(channel))


def test_a_stack_is_no_image_of_channels(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", FIVE, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(CellSegError, match=r"stack\.tif: has the axes ZYX 5 x 75 x 109"):
        read_whole(tmp_path / "stack.tif", rule("0"))


def test_damaged_names_are_no_names(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", FIVE, photometric="minisblack", description="<OME><broken", metadata=None)
    with pytest.raises(CellSegError, match="but no channel 'DAPI'"):
        read_whole(tmp_path / "image.tif", rule("DAPI"))


@pytest.mark.parametrize(("shown", "places"), [((), (0, 1, 2)), (("Ki67", "CD3"), (3, 1)), (("CD8",), (2, 2, 2))])
def test_a_picture_shows_up_to_three_channels(shown, places):
    image = np.moveaxis(FIVE, 0, 2)
    picture = Channels(tuple(NAMES), shown).picture(image)
    assert picture.shape == (75, 109, 3)
    assert np.array_equal(picture[..., : len(places)], image[..., list(places)])
    assert not picture[..., len(places) :].any()


def test_a_picture_of_rgb_is_the_image():
    image = np.moveaxis(FIVE[:3], 0, 2)
    assert Channels().picture(image) is image
    assert as_picture(image, INTENSITY_RULE) is image


def test_titles_of_tables_name_each_channel_once():
    assert Channels(("0", "DAPI", "0")).titles() == {"channel_0": 0, "DAPI": 1}
    assert list(Channels().titles()) == ["red", "green", "blue"]
