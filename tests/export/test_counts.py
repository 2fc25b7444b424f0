import numpy as np
import pandas as pd
import pytest

from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.export.counts import ImageCounts, write_counts

NAMES = ["tumour", "stroma"]


def cells(*classes):
    """Cells of 1, 2, ... pixels with scores of 0.1, 0.2, ..."""
    count = len(classes)
    return CellInstances(
        (9, 9),
        np.zeros((count, 4), np.float32),
        np.arange(1, count + 1, dtype=np.float32) / 10,
        np.array(classes, np.int64),
        [np.ones((1, number), bool) for number in range(1, count + 1)],
        np.stack([np.zeros(count, np.int64), np.arange(count)], axis=1),
    )


def test_each_image_and_class_has_a_row_also_without_cells(tmp_path):
    counts = [ImageCounts.of("a.tif", cells(0, 0, 1), 2), ImageCounts.of("-b.tif", cells(), 2)]
    write_counts(tmp_path / "counts.csv", counts, NAMES)
    table = pd.read_csv(tmp_path / "counts.csv")
    assert table.columns.tolist() == ["image", "class", "cells", "area_px", "mean_score"]
    assert table.iloc[:2].to_numpy().tolist() == [["a.tif", "tumour", 2, 3, 0.15], ["a.tif", "stroma", 1, 3, 0.3]]
    assert table.iloc[2:]["image"].tolist() == ["'-b.tif"] * 2
    assert table.iloc[2:]["cells"].tolist() == table.iloc[2:]["area_px"].tolist() == [0, 0]
    assert table.iloc[2:]["mean_score"].isna().all()


def test_areas_are_in_microns_too_where_the_pixel_size_is_known(tmp_path):
    counts = [ImageCounts.of("a.tif", cells(0), 1, (0.5, 0.25)), ImageCounts.of("b.tif", cells(0), 1)]
    write_counts(tmp_path / "counts.csv", counts, NAMES[:1])
    table = pd.read_csv(tmp_path / "counts.csv")
    assert table["area_um2"][0] == pytest.approx(0.125)
    assert np.isnan(table["area_um2"][1])
