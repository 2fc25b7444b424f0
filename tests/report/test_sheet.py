"""Panels in lines that are equally wide."""

import numpy as np
import pytest

from cellseg_d2.export.lettering import LINE_HEIGHT, swatch
from cellseg_d2.export.overlay import WIDEST
from cellseg_d2.report.sheet import GAP, GROUP_GAP, HEIGHT, TALLEST, Panel, draw_block, draw_sheet, lines_of

SHAPES = [(256, 320), (520, 696), (256, 256), (1024, 1024), (603, 1272), (2000, 300), (30, 40)]


def panel(size, number=1, title="a title"):
    """A panel of one colour, which no text has."""
    return Panel(title, size, lambda shown: np.full((*shown, 3), (number, 0, 7), np.uint8))


def extents(sheet, number):
    """(height, width) of the panel of a colour, which is all of it."""
    rows, columns = np.nonzero((sheet == (number, 0, 7)).all(axis=2))
    found = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == found[0] * found[1]
    return found


@pytest.mark.parametrize("count", range(1, len(SHAPES) + 1))
def test_lines_have_one_width_and_panels_keep_their_shape(count):
    groups = [[panel(size, 10 * number), panel(size, 10 * number + 1)] for number, size in enumerate(SHAPES[:count])]
    sheet = draw_sheet(groups)
    assert sheet.shape[1] <= WIDEST
    for number, size in enumerate(SHAPES[:count]):
        for color in (10 * number, 10 * number + 1):
            height, width = extents(sheet, color)
            assert width == pytest.approx(height * size[1] / size[0], abs=2)
    # no holes: a row of pixels that shows panels is white only at the rim and in the gaps
    shown = (sheet != 255).all(axis=2)
    full = shown.mean(axis=1) > 0.5
    assert full.sum() > 0.4 * len(sheet)
    gaps = (~shown[full]).sum(axis=1)
    most = 2 * GAP + (2 * count - 1) * GROUP_GAP
    assert gaps.max() <= most


def test_one_picture_is_as_large_as_it_is_but_neither_tiny_nor_huge():
    heights = [extents(draw_sheet([[panel((side, side))]]), 1)[0] for side in (50, 700, 5000)]
    assert heights == [HEIGHT, 700, TALLEST]


def test_a_legend_and_titles_are_above():
    plain = draw_sheet([[panel((100, 100))]])
    keyed = draw_sheet([[panel((100, 100))]], [(swatch(np.uint8(7)), "class")])
    assert len(keyed) == len(plain) + LINE_HEIGHT + GAP
    long = draw_sheet([[panel((100, 100), title="word " * 40), panel((100, 100), 2)]])
    assert (len(long) - len(plain)) % LINE_HEIGHT == 0 and len(long) > len(plain)
    assert extents(long, 1) == extents(long, 2)


@pytest.mark.parametrize("shapes", [[1.0] * 12, [0.1, 8, 1, 1, 30, 0.5], [5.0]])
def test_lines_have_all_items_in_order(shapes):
    lines = lines_of(shapes, 6)
    assert [number for line in lines for number in line] == list(range(len(shapes)))


def test_equal_items_are_spread_evenly():
    assert [len(line) for line in lines_of([1.0] * 12, 6)] == [6, 6]
    assert [len(line) for line in lines_of([1.0] * 7, 6)] == [7]
    assert sorted(len(line) for line in lines_of([1.0] * 9, 4)) == [4, 5]


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20, 33])
@pytest.mark.parametrize("turned", [False, True])
def test_a_block_has_its_first_panel_as_high_as_all_rows(count, turned):
    sizes = [(256, 320) if number % 3 and turned else (320, 256) for number in range(count)]
    block = draw_block(panel((256, 320), 50), [panel(size, 60 + number) for number, size in enumerate(sizes)], "copies")
    assert block.shape[1] <= WIDEST - 2 * GAP
    assert block.shape[1] > WIDEST - 2 * GAP - 10 or count == 1
    height, width = extents(block, 50)
    assert width == pytest.approx(1.25 * height, abs=2)
    rows = (block[:, -1] < 255).all(axis=1)
    gaps = height - rows.sum()
    assert gaps % GAP == 0
    for number, size in enumerate(sizes):
        shown = extents(block, 60 + number)
        assert shown[1] == pytest.approx(shown[0] * size[1] / size[0], abs=2)
