"""Documents: links and anchors lead somewhere, shown commands parse, and shown outputs are what commands print."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from drawing import noise
from monusac_files import box, write_pair

from cellseg_d2.annotations.monusac import CLASS_NAMES
from cellseg_d2.commands import VERBS, command_module
from cellseg_d2.commands.cli import split_overrides
from cellseg_d2.files import read_json

REPO_ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(REPO_ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "datasets/*.md", "datasets/sample/*.md")
    for path in REPO_ROOT.glob(pattern)
)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(page):
    return (REPO_ROOT / page).read_text(encoding="utf-8")


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", read(page)), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    return {f"{slug}-{slugs[:place].count(slug)}".removesuffix("-0") for place, slug in enumerate(slugs)}


def documented_commands():
    """(page, words after ``cellseg-d2``) of every command in a page's blocks; a backslash continues a line."""
    for page in PAGES:
        for block in FENCE.findall(read(page)):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["cellseg-d2"]:
                    yield page, list(takewhile(lambda word: word != "|", words[1:]))


def test_the_pages_are_found():
    assert {"README.md", "docs/architecture.md", "docs/conversion.md", "datasets/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_anchors(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", read(page)):
        if "://" in target:
            continue
        path = (REPO_ROOT / page).parent / target if target else REPO_ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            linked = path.resolve().relative_to(REPO_ROOT).as_posix()
            assert anchor in anchors(linked), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_named_exist(page):
    for name in re.findall(r"`((?:cellseg_d2|benchmarks|tools|configs)/[\w/.]+\.\w+)`", read(page)):
        assert (REPO_ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize(("page", "words"), list(documented_commands()))
def test_commands_that_are_shown_parse(page, words):
    verb, *rest = words
    assert verb == "VERB" or verb in VERBS, page
    if verb in VERBS:
        options, _ = split_overrides(rest)
        command_module(verb).build_parser().parse_args(options)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_the_recipe_is_defined_where_it_is_first_used(page):
    text = re.sub(r"`[^`]*`", "", FENCE.sub("", read(page)))
    uses = [match.start() for match in re.finditer(r"\b[Tt]he recipe\b", text)]
    if uses:
        assert re.match(r"[Tt]he recipe\*? is the set of training settings of the course", text[uses[0] :]), page


def test_the_shown_check_is_what_the_command_prints(run_tool):
    """Every line of the block but the dots that stand for others, in order."""
    block = next(block for block in FENCE.findall(read("docs/conversion.md")) if "DETECTIONS_PER_IMAGE" in block)
    command, *lines = block.splitlines()
    verb, *options = command.removeprefix("$ cellseg-d2 ").split()
    assert verb == "convert"
    printed = iter(run_tool("convert_tifs", *options, cwd=REPO_ROOT).stdout.splitlines())
    shown = [line.rstrip() for line in lines if line.strip() and line.strip() != "..."]
    assert shown
    missing = [line for line in shown if not any(line == found.rstrip() for found in printed)]
    assert not missing


def test_the_shown_conversion_of_monusac_runs(run_tool, tmp_path):
    """On a drawn set of two patients; ambiguous regions are crowds, and no patient is in both parts."""
    (words,) = [words for page, words in documented_commands() if page == "docs/conversion.md" and "monusac" in words]
    options = words[1:]
    root = tmp_path / options[options.index("--input") + 1]
    rng = np.random.default_rng(0)
    for patient in range(2):
        slide = f"TCGA-AA-000{patient}-01Z-00-DX1"
        for number in (1, 2):
            cells = {name: [box(30 * place, 5, 30 * place + 12, 20)] for place, name in enumerate(CLASS_NAMES)}
            outlines = {**cells, "Ambiguous": [box(10, 40, 50, 60)]}
            write_pair(root / slide, f"{slide}_00{number}", noise(rng, 70, 120), outlines)
    done = run_tool("convert_tifs", *options, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / options[options.index("--output") + 1]
    patients = {}
    for part in ("train", "val"):
        content = read_json(output / "annotations" / f"instances_{part}.json")
        patients[part] = {image["source"][:12] for image in content["images"]}
        assert [category["name"] for category in content["categories"]] == list(CLASS_NAMES)
        assert {cell["iscrowd"] for cell in content["annotations"]} == {0, 1}
    assert patients["train"] and patients["val"]
    assert not patients["train"] & patients["val"]
