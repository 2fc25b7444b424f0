"""Progress: a bar on a terminal, lines elsewhere; the items are untouched."""

import io
import logging
import sys

import pytest

from cellseg_d2 import progress
from cellseg_d2.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize("items", [[], [3], [3, 1, 2]])
def test_the_items_come_in_order(monkeypatch, stream, items):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(track(iter(items), len(items), "tiles")) == items


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(track(range(4), 4, "tiles", unit="row"))
    text = sys.stderr.getvalue()
    assert "tiles: 100%" in text
    assert "4/4" in text
    assert "row/s" in text or "rows/s" in text


def test_elsewhere_there_is_one_line_at_the_end_of_short_work(caplog):
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        list(track(range(1000), 1000, "tiles"))
    (record,) = caplog.records
    assert record.getMessage().startswith("tiles: 1000 of 1000, ")
    assert record.getMessage().endswith(" images/s, 0 s left")


def test_long_work_shows_lines_on_the_way(caplog, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "cellseg_d2"):
        list(track("abc", 3, "tiles", unit="row"))
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        f"tiles: {done} of 3" for done in (1, 2, 3)
    ]


def test_an_error_on_the_way_comes_through():
    def items():
        yield 1
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match=r"in the middle"):
        list(track(items(), 2, "tiles"))
