"""Whole images from tiles: pixels and cells are those of the input, and what is no dataset is one line."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawing import discs, noise, write_sample
from multiplexed import NAMES, write_multiplexed

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.conversion.untile import untiled_images
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.channels import PixelRule
from cellseg_d2.images.tiff import INTENSITY_RULE, read_image, read_label_map

OPTIONS = ConvertOptions(tile_size=24, min_area=0, min_visible=0.3, keep_empty=1.0)


@pytest.fixture(params=[0.0, 0.25], ids=["side by side", "overlapping"])
def converted(request, tmp_path):
    """Five images and the dataset of them, in many tiles."""
    rng = np.random.default_rng(3)
    for name in "abcde":
        maps = {1: discs(rng, 50, 60, 8), 2: discs(rng, 50, 60, 4)}
        write_sample(tmp_path / "input", name, noise(rng, 50, 60), maps, photometric="rgb")
    options = ConvertOptions(**{**OPTIONS.__dict__, "overlap": request.param})
    convert(tmp_path / "input", tmp_path / "cells", options)
    return tmp_path


def test_images_and_cells_are_those_of_the_input(converted):
    images = list(untiled_images(converted / "cells"))
    assert sorted(image.name for image in images) == list("abcde")
    assert {image.part for image in images} == {"train", "val"}
    for image in images:
        folder = converted / "input" / "train" / image.name
        assert np.array_equal(image.read(), read_image(folder / "image.tif"))
        expected = {}
        for number in (1, 2):
            labels = read_label_map(folder / f"class{number}.tif")
            for label in np.unique(labels)[1:]:
                expected[number - 1, (labels == label).tobytes()] = True
        masks = np.zeros((len(image.runs), *image.size), bool)
        for mask, crop, (x0, y0, x1, y1) in zip(masks, image.runs.crops(), image.runs.boxes.tolist()):
            mask[y0:y1, x0:x1] = crop
        found = {(number, mask.tobytes()) for number, mask in zip(image.classes.tolist(), masks)}
        assert found == set(expected)
        shares = [masks[:, y0:y1, x0:x1].sum(axis=(1, 2)) for (x0, y0, x1, y1), _ in image.tiles]
        assert np.array_equal(image.crowd, np.max(shares, axis=0) < 0.3 * masks.sum(axis=(1, 2)))


def test_a_part_alone_and_a_part_that_is_not_there(converted):
    assert {image.part for image in untiled_images(converted / "cells", ["val"])} == {"val"}
    (converted / "cells" / "annotations" / "instances_val_whole.json").unlink()
    assert {image.part for image in untiled_images(converted / "cells")} == {"train"}


def test_what_is_no_dataset_is_one_line(converted):
    with pytest.raises(CellSegError, match="is no converted dataset"):
        next(untiled_images(converted / "input"))
    path = converted / "cells" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["label"]
    path.write_text(json.dumps(content))
    with pytest.raises(CellSegError, match=r"instances_train\.json: is not what convert writes"):
        list(untiled_images(converted / "cells"))


def test_a_tile_of_another_size_is_named(converted):
    image = next(untiled_images(converted / "cells", ["train"]))
    path = image.tiles[-1][1]
    cv2.imwrite(str(path), cv2.imread(str(path))[:-1])
    with pytest.raises(CellSegError, match="its dataset says"):
        image.read()


@pytest.mark.parametrize("names", [NAMES, ("Ki67", "0"), ("CD8",)])
def test_channels_are_those_of_the_dataset_or_some_of_them(tmp_path, names):
    write_multiplexed(tmp_path / "input", images=3, side=40, columns=2)
    convert(tmp_path / "input", tmp_path / "cells", replace(OPTIONS, channels=names))
    for image in untiled_images(tmp_path / "cells"):
        source = read_image(tmp_path / "input" / "train" / image.name / "image.tif", PixelRule(INTENSITY_RULE, names))
        assert image.channels == names
        assert np.array_equal(image.read(), source)
        assert np.array_equal(image.read(names[-1:] * 2), source[..., [-1, -1]])
    with pytest.raises(CellSegError, match="but no channel 'FOXP3'"):
        image.read(("FOXP3",))
    path = tmp_path / "cells" / "dataset.json"
    path.write_text(path.read_text().replace('"name"', '"title"'))
    with pytest.raises(CellSegError, match=r"dataset\.json: is not what convert writes"):
        next(untiled_images(tmp_path / "cells"))
