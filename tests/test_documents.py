"""Documents: links that lead somewhere, and outputs that are still what the command prints."""

import re

import pytest

PAGES = ["README.md", "CHANGELOG.md", "datasets/README.md", "docs/architecture.md", "docs/benchmarks.md"]
PAGES += [
    f"docs/{name}.md"
    for name in ("commands", "conversion", "evaluation", "models", "prediction", "studies", "training")
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page, repo_root):
    path = repo_root / page
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_named_exist(page, repo_root):
    for name in re.findall(r"`((?:cellseg_d2|benchmarks|tools|configs)/[\w/.]+\.\w+)`", (repo_root / page).read_text()):
        assert (repo_root / name).exists(), f"{page}: {name}"


def test_the_shown_check_is_what_the_command_prints(run_tool, repo_root):
    """Every line of the block but the dots that stand for others, in order."""
    text = (repo_root / "docs" / "conversion.md").read_text(encoding="utf-8")
    block = next(
        block for block in re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL) if "DETECTIONS_PER_IMAGE" in block
    )
    shown = [line.rstrip() for line in block.splitlines() if line.strip() and line.strip() != "..."][
        1:
    ]  # without the command
    printed = iter(run_tool("convert_tifs", "--check", "--input", "datasets/sample", cwd=repo_root).stdout.splitlines())
    missing = [line for line in shown if not any(line == found.rstrip() for found in printed)]
    assert not missing
