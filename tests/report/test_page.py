"""Pages need nothing but themselves, and what they are told is text."""

import jinja2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import Page, read_picture, read_whole_page

from cellseg_d2.errors import CellSegError
from cellseg_d2.report.page import PAGE_STYLE, figure_svg, grouped_number, picture_uri, write_page
from cellseg_d2.report.training_report import write_training_report

EVIL = '<script>alert("1")</script> & "quotes" $x^2$'


@matplotlib.rc_context(PAGE_STYLE)
def plot(label="a curve"):
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], marker="o", label=label)
    axes.set_title(label)
    axes.legend()
    return figure


def write(path, title="A title"):
    """The base of all pages alone."""
    write_page(path, "base.html.j2", title=title)
    return path


def test_a_page_needs_nothing_but_itself(tmp_path):
    page = read_whole_page(write(tmp_path / "new" / "page.html"))
    assert "A title" in page.text
    (policy,) = (text for text in page.values("meta", "content") if "default-src" in text)
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_what_a_page_is_told_is_text(tmp_path):
    page = read_whole_page(write(tmp_path / "page.html", EVIL))
    assert page.text.count(EVIL) == 2  # the title of the window, and the heading
    assert "<script" not in page.source


def test_text_in_a_plot_is_shown_as_it_is(tmp_path):
    svg = figure_svg(plot(EVIL))
    (tmp_path / "plot.html").write_text(f"<body>{svg}</body>")
    page = Page(tmp_path / "plot.html")
    assert page.text.count(EVIL) == 2  # title and legend; not set as a formula
    assert "<script" not in svg


def test_a_plot_takes_the_colours_and_the_width_of_the_page():
    svg = figure_svg(plot())
    assert "currentColor" in svg and "#010203" not in svg and "#000000" not in svg
    assert svg.startswith("<svg ") and svg.endswith("</svg>\n")
    start = svg[: svg.index(">")]
    assert " width=" not in start and " height=" not in start and 'viewBox="0 0 288 216"' in start
    assert '<g id="' not in svg


def test_a_plot_drawn_again_is_the_same_text():
    assert figure_svg(plot()) == figure_svg(plot())


def test_a_template_that_names_what_it_was_not_given_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        write_page(tmp_path / "page.html", "base.html.j2")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CellSegError, match=r"page\.html: cannot be written"):
        write(tmp_path / "file" / "page.html")


@pytest.mark.parametrize(
    ("shape", "max_side", "expected"),
    [
        pytest.param((40, 90), None, (40, 90), id="as it is"),
        pytest.param((40, 90), 90, (40, 90), id="just fits"),
        pytest.param((400, 900), 90, (40, 90), id="wide"),
        pytest.param((900, 400), 90, (90, 40), id="high"),
        pytest.param((1, 900), 90, (1, 90), id="a line"),
    ],
)
def test_a_picture_is_bounded(shape, max_side, expected):
    picture = np.full((*shape, 3), (200, 100, 20), np.uint8)
    shown = read_picture(picture_uri(picture, max_side))
    assert shown.shape == (*expected, 3)
    np.testing.assert_allclose(shown.reshape(-1, 3).mean(axis=0), (200, 100, 20), atol=3)  # RGB stays RGB


def test_numbers_are_written_for_people():
    assert grouped_number(12_345.678) == "12,345.7"
    assert (grouped_number(3, 2), grouped_number(1234567, 0)) == ("3.00", "1,234,567")
    assert {grouped_number(None), grouped_number(float("nan"))} == {"-"}


def test_a_folder_named_as_markup_is_text_in_all_of_a_page(tmp_path):
    run = tmp_path / "<img src=x>$1$"
    run.mkdir()
    (run / "metrics.json").write_text('{"iteration": 19, "total_loss": 2.0}\n{"iteration": 39, "total_loss": 1.0}\n')
    write_training_report([run], tmp_path / "page.html")
    page = read_whole_page(tmp_path / "page.html")
    assert page.values("img", "src") == []
    assert page.tables[0][1][0] == "<img src=x>$1$"
