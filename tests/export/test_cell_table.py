"""Measures of each cell as CSV, read back with pandas."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawing import noise, overlapping_masks, pycocotools_rle, written
from hypothesis import given
from skimage.measure import regionprops

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.cell_table import MEASURES, MICRON_MEASURES, write_cell_table
from cellseg_d2.images.regions import WholeImage

NAMES = ["Epithelial, with comma", "Lymphocyte"]


def table_of(folder, masks, **options):
    scores = np.linspace(1 / 3, 1, len(masks))
    cells = CellInstances.from_rles(
        [pycocotools_rle(mask) for mask in masks], np.arange(len(masks)) % 2, masks[0].shape, scores
    )
    write_cell_table(folder / "cells.csv", cells, NAMES, image_name="plate/a.tif", **options)
    return pd.read_csv(folder / "cells.csv")


@written
@given(overlapping_masks(min_count=1))
def test_measures_are_those_of_scikit_image_in_the_full_frame(tmp_path_factory, masks):
    image = noise(np.random.default_rng(len(masks)), *masks[0].shape)
    table = table_of(tmp_path_factory.mktemp("table"), masks, image=image)
    assert table["id"].tolist() == list(range(1, len(masks) + 1))
    assert set(table["image"]) == {"plate/a.tif"}
    assert table["class"].tolist() == [NAMES[number % 2] for number in range(len(masks))]
    assert table["score"].to_numpy() == pytest.approx(np.linspace(1 / 3, 1, len(masks)), abs=1e-6)
    for (_, row), mask in zip(table.iterrows(), masks):
        (region,) = regionprops(mask.astype(np.uint8), image)
        y, x = region.centroid
        expected = [region.area, x, y, region.perimeter, region.eccentricity, region.solidity]
        assert row[list(MEASURES)].to_numpy(float) == pytest.approx(expected, abs=1e-6)
        means = row[["mean_red", "mean_green", "mean_blue"]].to_numpy(float)
        assert means == pytest.approx(region.intensity_mean, abs=1e-6)


def square():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:20] = True
    return mask


def test_microns_are_pixels_by_their_size(tmp_path):
    (row,) = table_of(tmp_path, [square()], pixel_size=(0.25, 0.25)).to_dict("records")
    assert row["area_px"] == 50
    assert row["area_um2"] == pytest.approx(50 / 16)
    assert (row["centroid_x_um"], row["centroid_y_um"]) == pytest.approx((14.5 / 4, 6 / 4))
    assert row["perimeter_um"] == pytest.approx(row["perimeter_px"] / 4)


def test_pixels_that_are_not_square_have_no_perimeter_in_microns(tmp_path):
    (row,) = table_of(tmp_path, [square()], pixel_size=(0.5, 0.25)).to_dict("records")
    assert row["area_um2"] == pytest.approx(50 / 8)
    assert (row["centroid_x_um"], row["centroid_y_um"]) == pytest.approx((14.5 / 2, 6 / 4))
    assert np.isnan(row["perimeter_um"])
    assert row["perimeter_px"] > 0


def test_a_cell_of_one_pixel_has_every_measure(tmp_path):
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    (row,) = table_of(tmp_path, [mask], image=image).to_dict("records")
    assert [row[name] for name in MEASURES] == [1, 3, 2, 0, 0, 1]
    assert [row["mean_red"], row["mean_green"], row["mean_blue"]] == image[2, 3].tolist()


def test_columns_come_with_what_they_need(tmp_path):
    plain = ["image", "id", "class", "score", *MEASURES]
    means = ["mean_red", "mean_green", "mean_blue"]
    image = np.zeros((20, 30, 3), np.uint8)
    assert list(table_of(tmp_path, [square()]).columns) == plain
    assert list(table_of(tmp_path, [square()], image=image).columns) == [*plain, *means]
    both = table_of(tmp_path, [square()], image=image, pixel_size=(1, 1))
    assert list(both.columns) == [*plain, *MICRON_MEASURES, *means]


def test_an_image_without_cells_is_a_header(tmp_path):
    write_cell_table(tmp_path / "cells.csv", CellInstances.empty((4, 4)), NAMES)
    assert list(pd.read_csv(tmp_path / "cells.csv").columns) == ["image", "id", "class", "score", *MEASURES]
    assert (tmp_path / "cells.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("at_once", [1, 300, 2**21])
def test_cells_that_are_measured_together_or_apart_have_the_same_measures(tmp_path, monkeypatch, sample_root, at_once):
    """Real nuclei, ragged and large; groups of one cell, of some and of all."""
    labels = tifffile.imread(next((sample_root / "train").iterdir()) / "class1.tif")
    masks = [labels == number for number in np.unique(labels[labels > 0])]
    monkeypatch.setattr("cellseg_d2.export.measures.AT_ONCE", at_once)
    table = table_of(tmp_path, masks)
    regions = regionprops(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    assert len(table) == len(regions) > 5
    for _, row in table.iterrows():
        region = regions[row["id"] - 1]
        y, x = region.centroid
        expected = [region.area, x, y, region.perimeter, region.eccentricity, region.solidity]
        assert row[list(MEASURES)].to_numpy(float) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("largest", [0, 100, 2**22])
@written
@given(overlapping_masks(min_count=1))
def test_means_of_an_image_that_is_read_by_windows_are_those_of_the_array(tmp_path_factory, largest, masks):
    image = noise(np.random.default_rng(len(masks)), *masks[0].shape)
    folder = tmp_path_factory.mktemp("table")
    expected = table_of(folder, masks, image=image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellseg_d2.export.measures.LARGEST_WINDOW", largest)
        pd.testing.assert_frame_equal(table_of(folder, masks, image=WholeImage(image)), expected)


def test_names_that_a_spreadsheet_would_run_are_text(tmp_path):
    cells = CellInstances.from_rles([pycocotools_rle(square())] * 2, [0, 1], (20, 30))
    write_cell_table(tmp_path / "cells.csv", cells, ['=HYPERLINK("http://x")', "CD4+"], image_name="-1+2.tif")
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table["class"].tolist() == ['\'=HYPERLINK("http://x")', "CD4+"]
    assert table["image"].tolist() == ["'-1+2.tif"] * 2
