"""The reports in a real browser: headless Chromium opens each by its path, as a double click does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from labelled_results import write_results
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from cellseg_d2.conversion.convert import convert
from cellseg_d2.conversion.options import ConvertOptions

pytestmark = pytest.mark.browser

REPORTS = ("dataset", "training", "evaluation", "audit", "ranking")
WITHOUT_PLOTS = ("audit", "ranking")
SCHEMES = ("light", "dark")
WIDTHS = (390, 800, 1400)
LAYERS = ("image", "truth", "prediction", "missed", "spurious")

CONTRAST = """
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const luminance = (colors) => {
      for (const color of colors) {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
      }
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    };
    const back = (element) => [
      ...(element.parentElement ? back(element.parentElement) : []), getComputedStyle(element).backgroundColor,
    ];
    const texts = "h1, p, th, td, dt, dd, caption, figcaption, a, code, svg text, label, button";
    return [...document.querySelectorAll(texts)]
      .filter((element) => element.textContent.trim() && element.getClientRects().length)
      .map((element) => {
        const style = getComputedStyle(element);
        const ink = element.tagName === "text" ? style.fill : style.color;
        const pair = [luminance([...back(element), ink]), luminance(back(element))].sort((a, b) => a - b);
        return [(pair[1] + 0.05) / (pair[0] + 0.05), element.tagName + ": " + element.textContent.trim().slice(0, 40)];
      })
      .sort((one, other) => one[0] - other[0])[0];
"""
"""The least contrast of a text to what lies under it, by WCAG 2's formula, and the text."""

WIDER = """
    if (document.documentElement.scrollWidth <= window.innerWidth) return [];
    return [...document.querySelectorAll("body *")]
      .filter((element) => !element.closest(".wide, .plot"))
      .filter((element) => element.getBoundingClientRect().right > window.innerWidth)
      .map((element) => element.outerHTML.slice(0, 80));
"""
"""What makes the page scroll sideways."""


LETTERS = """
    return [...document.querySelectorAll(".plot text")]
      .map((text) => [parseFloat(getComputedStyle(text).fontSize), text.getScreenCTM()])
      .map(([size, turned]) => size * Math.hypot(turned.a, turned.b));
"""
"""The height of each letter of the plots, in pixels of the screen."""

COVERED = """
    return [...document.querySelectorAll(".wide, .plot")].filter((part) => part.scrollWidth > part.clientWidth + 1);
"""
"""The tables and plots that are wider than the page shows."""


@pytest.fixture(scope="module")
def pages(sample_root, run_tool, tmp_path_factory) -> dict[str, Path]:
    """One page of each kind, of a part of the sample, written by the command line."""
    folder = tmp_path_factory.mktemp("reports")
    written = {name: folder / f"{name}.html" for name in REPORTS[:3]}
    (folder / "raw" / "train").mkdir(parents=True)
    for source in sorted((sample_root / "train").iterdir())[:6]:
        (folder / "raw" / "train" / source.name).symlink_to(source)
    _write_run(folder / "run")
    truth, images = _truth(sample_root), sample_root / "test_release"
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(_results(truth)))
    pictures = ["--input", images, "--image-ids", sample_root / "test_image_name_to_ids.json", "--images", "4"]
    for name, arguments in {
        "dataset": ["--input", folder / "raw"],
        "training": [folder / "run"],
        "evaluation": ["--ground-truth", folder / "gt.json", "--predictions", folder / "results.json", *pictures],
    }.items():
        done = run_tool("report", name, *arguments, "--output", written[name])
        assert done.returncode == 0, done.stderr
    return {**written, "audit": _write_audit(folder, run_tool), "ranking": _write_ranking(folder, images, run_tool)}


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser, pages):
    def open_one(name: str, scheme: str = "light") -> webdriver.Chrome:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get_log("browser")
        browser.get(pages[name].as_uri())
        return browser

    return open_one


@pytest.fixture
def sized_page(open_page):
    """Opens a page in a window of a width."""
    opened = []

    def open_one(name: str, scheme: str, width: int) -> webdriver.Chrome:
        page = open_page(name, scheme)
        opened.append(page)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return page

    yield open_one
    for page in opened:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def viewer(open_page) -> WebElement:
    """The gallery's first picture, which is one with errors."""
    found = open_page("evaluation").find_element(By.CLASS_NAME, "viewer")
    found.parent.execute_script("arguments[0].scrollIntoView()", found)
    return found


def _write_audit(folder: Path, run_tool) -> Path:
    """The page of an audit by results that lack cells and have others of another class."""
    convert(folder / "raw", folder / "datasets" / "few", ConvertOptions())

    def change(results: list[dict]) -> None:
        del results[::7]
        for one in results[::5]:
            one["category_id"] = one["category_id"] % 4 + 1

    (folder / "known").mkdir()
    write_results(folder / "datasets" / "few", folder / "known", change)
    options = ("--dataset", "few", "--predictions", folder / "known" / "results.json", "--output", folder / "audit")
    done = run_tool("audit", *options, DETECTRON2_DATASETS=str(folder / "datasets"))
    assert done.returncode == 0, done.stderr
    return folder / "audit" / "audit.html"


def _write_ranking(folder: Path, images: Path, run_tool) -> Path:
    options = ("--input", images / "1e61ecf354cb.tif", "--output", folder / "ranking")
    done = run_tool("rank", "--weights", "nuclei", *options)
    assert done.returncode == 0, done.stderr
    return folder / "ranking" / "ranking.html"


def _truth(sample_root: Path) -> dict:
    """The ground truth of the six test images with the most cells."""
    truth = json.loads((sample_root / "test_gt.json").read_text())
    images = [cell["image_id"] for cell in truth["annotations"]]
    kept = sorted(set(images), key=lambda number: -images.count(number))[:6]
    truth["images"] = [image for image in truth["images"] if image["id"] in kept]
    truth["annotations"] = [cell for cell in truth["annotations"] if cell["image_id"] in kept]
    return truth


def _results(truth: dict) -> list[dict]:
    """Most cells of a ground truth, of which some have another class."""
    random = np.random.default_rng(0)
    return [
        {
            **{key: cell[key] for key in ("image_id", "segmentation", "bbox")},
            "category_id": cell["category_id"] if random.random() < 0.8 else cell["category_id"] % 4 + 1,
            "score": round(random.uniform(0.5, 1), 4),
        }
        for cell in truth["annotations"]
        if random.random() < 0.8
    ]


def _write_run(folder: Path) -> None:
    """A training's folder, as far as a report reads it."""
    folder.mkdir()
    records = [{"iteration": step, "total_loss": 3 / step, "loss_cls": 1 / step, "lr": 0.01} for step in (20, 40, 60)]
    records += [{"iteration": 60, "segm/AP50": 31.5, "bbox/AP50": 33.0}]
    (folder / "metrics.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.yaml").write_text("SOLVER:\n  BASE_LR: 0.01\n")


def _shot(element: WebElement) -> np.ndarray:
    """What is to be seen, without the rim, which shows where the focus is."""
    picture = cv2.imdecode(np.frombuffer(element.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
    return picture[8:-8, 8:-8].astype(np.int32)


def _edge(part: WebElement) -> float:
    """The mean brightness at the right edge of what is shown of a table or a plot."""
    picture = cv2.imdecode(np.frombuffer(part.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
    return float(np.median(picture[:, -3:]))


def _changed(one: np.ndarray, other: np.ndarray) -> int:
    """Pixels that differ by more than edges do that are painted again, some shades of 255."""
    return np.count_nonzero((np.abs(one - other) > 16).any(axis=2))


def _expect(picture: WebElement, shot: np.ndarray) -> None:
    """Waits until a picture is painted as it was; of edges that are painted again a few pixels may differ by more."""
    WebDriverWait(picture.parent, 20).until(lambda _: _changed(shot, _shot(picture)) < 20)


def _settled(picture: WebElement) -> np.ndarray:
    """A picture once it is painted twice alike: after the mouse has left an outline that it had highlighted."""
    shots = [_shot(picture)]

    def is_settled(_: webdriver.Chrome) -> bool:
        shots.append(_shot(picture))
        return np.array_equal(*shots[-2:])

    WebDriverWait(picture.parent, 20).until(is_settled)
    return shots[-1]


def _mouse_away(page: webdriver.Chrome) -> None:
    """Moves the mouse into the corner of the window: an outline under it would be highlighted."""
    mouse = ActionBuilder(page)
    mouse.pointer_action.move_to_location(1, 1)
    mouse.perform()


def _view(picture: WebElement) -> list[float]:
    """x, y, width and height of what a picture shows."""
    return [float(number) for number in picture.get_dom_attribute("viewBox").split()]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_opens_without_a_complaint_and_is_read_in_light_and_dark(open_page, name, scheme):
    page = open_page(name, scheme)
    assert page.get_log("browser") == []
    assert page.find_element(By.TAG_NAME, "h1").text
    fetched = "return performance.getEntriesByType('resource').map((one) => one.name)"
    assert [address for address in page.execute_script(fetched) if not address.startswith("data:")] == []
    shot = _shot(page.find_element(By.TAG_NAME, "body"))
    assert shot.std() > 5
    assert (np.median(shot) < 128) == (scheme == "dark")
    contrast, text = page.execute_script(CONTRAST)
    assert contrast >= 4.5, text  # WCAG 2, level AA
    assert page.execute_script(WIDER) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", REPORTS)
def test_in_a_window_of_any_width_tables_scroll_not_the_page_and_plots_are_legible(sized_page, name, scheme, width):
    page = sized_page(name, scheme, width)
    assert page.execute_script(WIDER) == []
    contrast, text = page.execute_script(CONTRAST)
    assert contrast >= 4.5, text
    letters = page.execute_script(LETTERS)
    assert bool(letters) == (name not in WITHOUT_PLOTS) and min(letters, default=9) >= 8.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_covered_at_the_edge_is_seen_to_go_on(sized_page, scheme):
    page = sized_page("evaluation", scheme, WIDTHS[0])
    covered = page.execute_script(COVERED)
    assert len(covered) >= 2
    for part in covered:
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
        edge = _edge(part)
        page.execute_script("arguments[0].scrollLeft = arguments[0].scrollWidth", part)
        assert abs(_edge(part) - edge) > 25  # the shade is gone where the content ends


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_of_a_row_are_equally_high(sized_page, width):
    page = sized_page("evaluation", "light", width)
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.viewer > svg')].map((svg) => svg.getBoundingClientRect().toJSON())"
    )
    rows = {}
    for box in boxes:
        rows.setdefault(round(box["top"]), set()).add(round(box["height"]))
    assert len(boxes) == 4 and all(len(heights) == 1 for heights in rows.values())
    assert len(rows) == (4 if width == WIDTHS[0] else 2)


def test_marks_have_colours_that_no_class_has_and_shapes_of_their_own(viewer):
    page = viewer.parent
    style = "const style = getComputedStyle(arguments[0]); return [style.fill, style.stroke]"
    marks = {kind: viewer.find_elements(By.CSS_SELECTOR, f".mark.{kind}") for kind in ("missed", "spurious")}
    assert all(marks.values())
    for mark in (*marks["missed"], *marks["spurious"]):
        assert page.execute_script(style, mark) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    shapes = [{"a" in mark.get_attribute("d") for mark in marks[kind]} for kind in ("missed", "spurious")]
    assert shapes == [{True}, {False}]  # arcs of rings
    for kind, of_kind in marks.items():
        viewer.find_element(By.CSS_SELECTOR, f"[data-layer={kind}]").click()
        assert not any(mark.is_displayed() for mark in of_kind)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_switched_off_and_on(viewer, layer):
    picture, box = (
        viewer.find_element(By.TAG_NAME, "svg"),
        viewer.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]"),
    )
    assert box.is_selected()
    _shot(picture)  # scrolls to it
    _mouse_away(viewer.parent)
    before = _settled(picture)
    box.click()
    _mouse_away(viewer.parent)
    assert _changed(before, _settled(picture)) > 50
    box.click()
    _mouse_away(viewer.parent)
    _expect(picture, before)


def test_all_layers_off_leave_nothing(viewer):
    for layer in LAYERS:
        viewer.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]").click()
    assert _shot(viewer.find_element(By.TAG_NAME, "svg")).std(axis=(0, 1)).max() < 1


def test_the_keyboard_zooms_moves_and_switches_layers(viewer):
    picture = viewer.find_element(By.TAG_NAME, "svg")
    viewer.parent.execute_script("arguments[0].focus()", viewer)
    whole = _shot(picture)
    viewer.send_keys("++")
    zoomed = _shot(picture)
    assert float(viewer.get_attribute("data-scale")) == pytest.approx(1.96)
    assert _changed(whole, zoomed) > 0.3 * zoomed.shape[0] * zoomed.shape[1]
    before = _view(picture)
    viewer.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    after = _view(picture)
    assert after[0] > before[0] and after[1] > before[1]
    viewer.send_keys("0")
    assert viewer.get_attribute("data-scale") == "1"
    _expect(picture, whole)
    for key, layer in enumerate(LAYERS, start=1):
        viewer.send_keys(str(key))
        assert not viewer.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]").is_selected()
    viewer.send_keys("e")
    shown = [layer for layer in LAYERS if viewer.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]").is_selected()]
    assert {"missed", "spurious"} <= set(shown)


def test_the_mouse_zooms_where_it_is_and_drags(viewer):
    picture = viewer.find_element(By.TAG_NAME, "svg")
    page = viewer.parent
    origin = webdriver.common.actions.wheel_input.ScrollOrigin.from_element(picture, 60, 40)
    top = page.execute_script("return window.scrollY")
    ActionChains(page).move_to_element(picture).click().perform()
    ActionChains(page).scroll_from_origin(origin, 0, -400).perform()
    assert float(viewer.get_attribute("data-scale")) > 1.2
    assert page.execute_script("return window.scrollY") == top
    before = _view(picture)
    assert before[0] > 0
    ActionChains(page).move_to_element(picture).click_and_hold().move_by_offset(-80, -50).release().perform()
    after = _view(picture)
    assert after[0] > before[0] and after[1] > before[1]
    assert after[2:] == before[2:]


def test_without_the_focus_the_wheel_scrolls_the_page(viewer):
    page, picture = viewer.parent, viewer.find_element(By.TAG_NAME, "svg")
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, arguments[0].offsetTop - 300)", viewer)
    top = page.execute_script("return window.scrollY")
    origin = webdriver.common.actions.wheel_input.ScrollOrigin.from_element(picture)
    ActionChains(page).scroll_from_origin(origin, 0, 150).perform()
    WebDriverWait(page, 5).until(lambda _: page.execute_script("return window.scrollY") > top)
    assert viewer.get_attribute("data-scale") == "1"
