"""Datasets of other channels than RGB, and RGB datasets that do not change by them."""

from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
from drawing import read_folder, write_sample, write_test_images
from multiplexed import CHANNEL_OPTIONS, write_multiplexed

from cellseg_d2.conversion.channels import channel_statistics, channel_sums, encode_channels
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import PNG_SETTINGS, convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.files import read_json
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.formats import read_whole
from cellseg_d2.images.tiff import INTENSITY_RULE, read_image

PICKED = ("Ki67", "0")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("multiplexed")
    write_multiplexed(root, images=6, side=64, columns=2)
    source = tifffile.imread(root / "train" / "image0" / "image.tif")
    write_test_images(root, {}, None)
    tifffile.imwrite(root / "test_release" / "t.tif", source, **CHANNEL_OPTIONS)
    return root


@pytest.fixture(scope="module")
def dataset(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets") / "picked"
    convert(root, folder, ConvertOptions(channels=PICKED, tile_size=48))
    return folder


def test_tiles_have_the_channels_in_their_order_and_their_names(root, dataset):
    annotations = read_json(dataset / "annotations" / "instances_train.json")
    assert annotations["images"]
    for record in annotations["images"]:
        x0, y0, x1, y1 = record["window"]
        source = tifffile.imread(root / "train" / record["source"] / "image.tif")[[3, 0], y0:y1, x0:x1]
        with tifffile.TiffFile(dataset / record["file_name"]) as file:
            assert file.imagej_metadata["Labels"] == list(PICKED)
            assert np.array_equal(file.asarray(), source)
        tile = read_whole(dataset / record["file_name"], PixelRule(INTENSITY_RULE, PICKED))
        assert np.array_equal(tile, np.moveaxis(source, 0, 2))


def test_whole_and_test_images_have_them_too(root, dataset):
    found = [path for part in ("val_whole", "test") for path in sorted((dataset / part).iterdir())]
    assert [path.suffix for path in found] == [".tif"] * len(found)
    assert {tifffile.imread(path).shape for path in found} == {(2, 64, 64)}
    assert np.array_equal(tifffile.imread(found[-1]), tifffile.imread(root / "test_release" / "t.tif")[[3, 0]])


def test_the_description_has_statistics_of_the_training_pixels(root, dataset):
    description = read_json(dataset / "dataset.json")
    assert description["parameters"]["channels"] == list(PICKED)
    assert [channel["name"] for channel in description["channels"]] == list(PICKED)
    names = description["images"]["train"]
    images = np.stack([tifffile.imread(root / "train" / name / "image.tif") for name in names])
    for place, channel in zip((3, 0), description["channels"]):
        pixels = images[:, place]
        assert channel["mean"] == pytest.approx(pixels.mean(), abs=1e-3)
        assert channel["std"] == pytest.approx(pixels.std(), abs=1e-3)


def test_the_same_dataset_in_one_process_and_in_two(root, dataset, tmp_path):
    convert(root, tmp_path / "again", ConvertOptions(channels=PICKED, tile_size=48), workers=2)
    assert read_folder(tmp_path / "again") == read_folder(dataset)


def test_an_rgb_dataset_says_nothing_of_channels_and_has_the_same_pngs(sample_root, nuclei):
    description = read_json(nuclei / "dataset.json")
    assert "channels" not in description
    assert "channels" not in description["parameters"]
    record = read_json(nuclei / "annotations" / "instances_train.json")["images"][0]
    x0, y0, x1, y1 = record["window"]
    image = read_image(sample_root / "train" / record["source"] / "image.tif")
    encoded = imagecodecs.png_encode(np.ascontiguousarray(image[y0:y1, x0:x1]), **PNG_SETTINGS)
    assert (nuclei / record["file_name"]).read_bytes() == encoded


def test_an_image_without_the_channel_is_named_by_the_check(root):
    report = check(root, ConvertOptions(channels=("DAPI", "FOXP3")))
    assert len(report.summary["problems"]) == 7
    last = report.summary["problems"][-1]
    assert last.startswith("train/image5/image.tif: has 4 channels (DAPI, CD3, CD8, Ki67), but no channel 'FOXP3'")


@pytest.mark.parametrize("channels", [("0", "0"), ("", "1")])
def test_channels_must_differ(root, tmp_path, channels):
    with pytest.raises(CellSegError, match="channels must differ and have a name or number each"):
        convert(root, tmp_path / "out", ConvertOptions(channels=channels))


@pytest.mark.parametrize("size", [(40, 50), (40, 4), (3, 3), (5, 1), (1, 9), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_any_number_of_channels_is_written_as_it_is(tmp_path, size, count):
    image = np.random.default_rng(0).integers(0, 256, (*size, count), dtype=np.uint8)
    names = [f"marker {number} \u03b2" for number in range(count)]
    (tmp_path / "tile.tif").write_bytes(encode_channels(image, names))
    assert np.array_equal(read_whole(tmp_path / "tile.tif", PixelRule(INTENSITY_RULE, tuple(names))), image)
    assert encode_channels(image, names) == (tmp_path / "tile.tif").read_bytes()


def test_ranges_per_channel_are_those_of_the_dataset(root, dataset, tmp_path):
    factors = np.array([9, 1, 1, 200], np.uint16)[:, None, None]  # by which the ranges make them what they were
    for folder in sorted((root / "train").iterdir()):
        labels = {number: tifffile.imread(folder / f"class{number}.tif") for number in (1, 2)}
        image = tifffile.imread(folder / "image.tif") * factors
        write_sample(tmp_path / "deep", folder.name, image, labels, **CHANNEL_OPTIONS)
    options = ConvertOptions(channels=PICKED, tile_size=48, intensity_rule="range:0,51000/0,2295")
    summary = convert(tmp_path / "deep", tmp_path / "out", options)
    assert summary["intensity_rule"] == summary["parameters"]["intensity_rule"] == options.intensity_rule
    for part in ("train", "val_whole"):
        assert read_folder(tmp_path / "out" / part) == read_folder(dataset / part)
    with pytest.raises(CellSegError, match="has 2 ranges, one per channel, but the images have 3 channels"):
        convert(tmp_path / "deep", tmp_path / "other", replace(options, channels=("0", "1", "2")))


def test_without_a_training_image_the_statistics_are_those_of_all(root, tmp_path):
    names = [f"image{number}" for number in range(6)]
    (tmp_path / "split.csv").write_text("id,split\n" + "".join(f"{name},val\n" for name in names))
    options = ConvertOptions(channels=("CD3",))
    summary = convert(root, tmp_path / "out", options, split_file=tmp_path / "split.csv")
    pixels = np.stack([tifffile.imread(root / "train" / name / "image.tif")[1] for name in names])
    assert summary["channels"][0]["mean"] == pytest.approx(pixels.mean(), abs=1e-3)


def test_statistics_are_those_of_all_pixels_together():
    images = [np.random.default_rng(n).integers(0, 256, (20 + n, 30, 2), dtype=np.uint8) for n in range(3)]
    found = channel_statistics(["a", "b"], [channel_sums(image) for image in images])
    pixels = np.concatenate([image.reshape(-1, 2) for image in images])
    assert [channel["mean"] for channel in found] == pytest.approx(pixels.mean(axis=0), abs=1e-3)
    assert [channel["std"] for channel in found] == pytest.approx(pixels.std(axis=0), abs=1e-3)
