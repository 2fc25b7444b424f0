"""PanNuke's arrays, written by numpy as they are published: float64, ids per channel, the background last."""

import numpy as np
import pytest
from drawing import discs, noise

from cellseg_d2.annotations.pannuke import CLASS_NAMES, find_labelled
from cellseg_d2.conversion.check import check
from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.tiff import INTENSITY_RULE, MAX_PIXELS

SIDE = 64
RNG = np.random.default_rng(0)
IMAGES = np.stack([noise(RNG, SIDE, SIDE) for _ in range(3)])
MASKS = np.zeros((3, SIDE, SIDE, 6))
for place in range(3):
    for channel in (0, 1, 4):
        MASKS[place, :, :, channel] = discs(RNG, SIDE, SIDE, 4) * (100 + 7 * channel)
MASKS[..., 5] = ~MASKS[..., :5].any(axis=3)
MASKS[2] = 0
MASKS[2, :, :, 5] = 1


def write(root, images=IMAGES, masks=MASKS, folders=("images/fold1", "masks/fold1")):
    for folder, name, array in zip(folders, ("images", "masks"), (images, masks)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        np.save(root / folder / f"{name}.npy", array)
    return root


def read(sample):
    labels = sample.read(INTENSITY_RULE, MAX_PIXELS, 5)
    assert all(not layer.crowd for layer in labels.label_maps)
    return labels.image, {layer.categories[0]: layer.labels for layer in labels.label_maps}


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.int32])
@pytest.mark.parametrize("folders", [("images/fold1", "masks/fold1"), ("fold1", "fold1"), ("", "")])
def test_each_channel_is_a_class_but_the_last(tmp_path, dtype, folders):
    write(tmp_path / "Fold 1", IMAGES.astype(dtype), MASKS.astype(np.float64), folders)
    found = find_labelled(tmp_path / "Fold 1")
    assert found.class_names == list(CLASS_NAMES)
    front = "fold1-" if folders[0] else ""
    assert [sample.id for sample in found.images] == [f"{front}0000{place}" for place in range(3)]
    for place, sample in enumerate(found.images):
        image, maps = read(sample)
        assert np.array_equal(image, IMAGES[place])
        assert image.dtype == np.uint8
        assert list(maps) == ([1, 2, 5] if place < 2 else [])
        for number, labels in maps.items():
            assert np.array_equal(labels, MASKS[place, :, :, number - 1])


def test_several_folds_keep_their_names(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"Fold {number}", folders=(f"images/fold{number}", f"masks/fold{number}"))
        write(tmp_path / f"again {number}", folders=("images/a", "masks/a"))
    ids = [sample.id for sample in find_labelled(tmp_path).images]
    assert len(set(ids)) == 12
    assert "Fold 1_images_fold1-00000" in ids
    ids = [sample.id for sample in find_labelled(tmp_path / "Fold 2").images]
    assert ids == ["fold2-00000", "fold2-00001", "fold2-00002"]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (
            IMAGES,
            MASKS[:2],
            r"masks\.npy: is \(2, 64, 64, 6\), its images \(3, 64, 64, 3\); it must be \(3, 64, 64, 6\)",
        ),
        (IMAGES, MASKS[..., :5], r"masks\.npy: is \(3, 64, 64, 5\), its images .*; it must be \(3, 64, 64, 6\)"),
        (IMAGES[..., :2], MASKS, r"images\.npy: has 2 channels, an RGB image has 3"),
        (IMAGES[0], MASKS, r"images\.npy: holds no numbers as \(images, height, width, channels\)"),
        (np.array(["a"]), MASKS, r"images\.npy: holds no numbers as \(images, height, width, channels\)"),
        (np.array([{}], object), MASKS, r"images\.npy: cannot be read as an array .*; download it again"),
        (IMAGES * 2.0, MASKS, r"images\.npy: image 0: has values outside 0 \.\. 255; save 8-bit images"),
        (IMAGES * np.nan, MASKS, r"images\.npy: image 0: has values outside 0 \.\. 255; save 8-bit images"),
        (IMAGES, MASKS - 0.5, r"masks\.npy: image 0: holds fractions or NaN, so it is no label map"),
        (IMAGES, MASKS - 1, r"masks\.npy: image 0: holds negative labels"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, images, masks, message):
    write(tmp_path, images, masks)
    with pytest.raises(CellSegError, match=message):
        read(find_labelled(tmp_path).images[0])


def test_a_truncated_array_and_a_folder_without_are_one_line(tmp_path):
    with pytest.raises(CellSegError, match=r"holds no images\.npy with its masks\.npy"):
        find_labelled(tmp_path)
    path = write(tmp_path) / "masks" / "fold1" / "masks.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CellSegError, match=r"masks\.npy: cannot be read as an array .*; download it again"):
        find_labelled(tmp_path)


def test_a_damaged_header_is_one_line(tmp_path):
    path = write(tmp_path) / "masks" / "fold1" / "masks.npy"
    path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': [("))
    with pytest.raises(CellSegError, match=r"masks\.npy: cannot be read as an array .*; download it again"):
        find_labelled(tmp_path)


def test_it_is_guessed_checked_and_converted(tmp_path, caplog):
    write(tmp_path / "in")
    with caplog.at_level("INFO", "cellseg_d2"):
        summary = convert(tmp_path / "in", tmp_path / "out", ConvertOptions(val_fraction=0, min_area=0), workers=2)
    assert "read as pannuke (PanNuke's images.npy" in caplog.text
    cells = {name: sum(len(np.unique(mask)) - 1 for mask in MASKS[..., n]) for n, name in enumerate(CLASS_NAMES)}
    assert summary["counts"]["train"]["cells"] == cells
    assert check(tmp_path / "in", ConvertOptions()).summary["cells"]["count"] == sum(cells.values())
