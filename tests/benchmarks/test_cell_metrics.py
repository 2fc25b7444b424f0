"""The tables on what the metrics of cells cost: what they hold, not how fast anything is."""

from tables import is_ratio, read_tables

from benchmarks.cell_metrics import report


def test_growth_and_the_comparison_with_ap_are_ratios_of_what_is_printed():
    tables = read_tables(report(repeats=1, counts=(4, 9), images=1, cells=12))
    growth = tables["Cell metrics"]
    works = ("metrics", "the same pixels in 4 cells", "metrics and RLE decoding")
    assert [row["work, cells"] for row in growth] == [f"{work}, {count}" for count in (4, 9) for work in works]
    for place, row in enumerate(growth):
        assert is_ratio(row["times the first"], row["best s"], growth[place % 3]["best s"])
        assert is_ratio(row["times its pixels"], row["best s"], growth[place // 3 * 3 + 1]["best s"])
    ours, theirs = tables["Cell metrics and AP"]
    assert is_ratio(theirs["times these metrics"], theirs["median s"], ours["median s"])
