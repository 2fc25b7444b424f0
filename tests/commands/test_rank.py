"""`rank` as a user runs it, with `nuclei` on some test images of the sample."""

import csv

import pytest
from pages import Page, addresses

from cellseg_d2.inference.ranking import FEW_CELLS

NAMES = ("1e61ecf354cb.tif", "3d0ca3498d97.tif")


@pytest.fixture(scope="module")
def images(sample_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank") / "images"
    for name in NAMES:
        (folder / "plate").mkdir(parents=True, exist_ok=True)
        (folder / "plate" / name).symlink_to(sample_root / "test_release" / name)
    return folder


@pytest.fixture(scope="module")
def ranked(run_tool, images):
    output = images.parent / "ranking"
    done = run_tool("rank", "--weights", "nuclei", "--input", images, "--output", output, "--pictures", 1)
    assert done.returncode == 0, done.stderr
    with (output / "ranking.csv").open(newline="") as file:
        return output, list(csv.DictReader(file)), done.stdout


def test_the_list_goes_by_gain_and_names_every_image(ranked):
    _, rows, printed = ranked
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert {row["image"] for row in rows} == {f"plate/{name}" for name in NAMES}
    gains = [float(row["gain"]) for row in rows]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    for row in rows:
        mean = (float(row["views"]) + float(row["thresholds"])) / 2
        per_cell = mean / max(int(row["cells"]), FEW_CELLS)
        assert float(row["gain"]) == pytest.approx(per_cell, abs=0.006)  # both are rounded
    assert f"2 images; label {rows[0]['image']} first" in printed


def test_the_page_shows_the_first_images_and_is_a_single_file(ranked):
    output, rows, _ = ranked
    page = Page(output / "ranking.html")
    assert page.open == [] and page.loaded() == [] and addresses(page) == set()
    assert page.source.count("<image ") == 1
    assert f"1. {rows[0]['image']}" in page.text
    assert page.tables == [[list(rows[0]), *(list(row.values()) for row in rows)]]
    assert 'class="doubted"' in page.source


def test_an_earlier_list_is_kept_without_overwrite(run_tool, images, ranked):
    done = run_tool("rank", "--weights", "nuclei", "--input", images, "--output", ranked[0])
    assert done.returncode == 2 and "holds a ranking already" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--weights", "nuclei", "--pictures", "-1"], "--pictures is at least 0", id="pictures"),
        pytest.param(["--weights", "no.pth"], "no.pth", id="no weights"),
        pytest.param([], "--weights", id="no model"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(run_tool, images, tmp_path, options, message):
    done = run_tool("rank", "--input", images, "--output", tmp_path / "list", *options)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "list").exists()
