import numpy as np
import pytest
from tables import is_ratio, read_tables

from benchmarks.cell_table import draw, measure_one_by_one
from cellseg_d2.export.measures import shapes


def test_both_ways_measure_the_same():
    cells, image = draw(20)
    measured = shapes(cells, image)
    areas, ys, xs, perimeters, eccentricities, solidities, *means = np.array(measure_one_by_one(cells, image)).T
    assert measured.areas.tolist() == areas.tolist()
    assert measured.centroids - cells.origins == pytest.approx(np.stack([xs, ys], axis=1))
    assert measured.perimeters == pytest.approx(perimeters)
    assert measured.eccentricities == pytest.approx(eccentricities)
    assert measured.solidities == pytest.approx(solidities)
    assert measured.means == pytest.approx(np.stack(means, axis=1))


def test_the_table_has_both_ways_by_the_number_of_cells(run_tool):
    process = run_tool("benchmark", "tables", "--quick")
    assert (process.returncode, process.stderr) == (0, "")
    rows = read_tables(process.stdout)["Tables of cells"]
    assert [row["way, cells"] for row in rows] == [
        f"{way}, {count}" for count in (5, 9) for way in ("all at once", "one by one")
    ]
    for ours, other in zip(rows[::2], rows[1::2]):
        assert is_ratio(other["times all at once"], other["best s"], ours["best s"])
