"""Fixtures that tests of several folders use. Importable helpers are in ``drawing.py`` beside this file."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO_ROOT / "tests"))  # importlib mode puts nothing there; for ``from drawing import ...``

STARDIST = Path(f"{sys.prefix}-stardist") / "bin" / "python"
SAHI = REPO_ROOT / ".venv" / "sahi" / "bin" / "python"

WANTING = {
    "sahi": not SAHI.is_file() and "needs SAHI: make bench-setup",
    "stardist": not STARDIST.is_file() and "needs StarDist: make bench-setup",
    "browser": not (shutil.which("chromium") and shutil.which("chromedriver"))
    and "needs a browser: Debian's packages chromium and chromium-driver",
    "namespace": subprocess.run("unshare -rn true", shell=True, capture_output=True, check=False).returncode != 0
    and "needs network namespaces without root: unshare -rn",
}
"""By marker: what its tests lack here, which leaves them out."""

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs more than ``make setup`` installs where that is not there."""
    without = [item for item in items if any(WANTING.get(marker.name) for marker in item.iter_markers())]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out and what it lacks."""
    for marker, reason in WANTING.items():
        if reason:
            terminalreporter.write_line(f"tests of {marker!r} were left out: {reason}")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPO_ROOT


@pytest.fixture(scope="session")
def sample_root() -> Path:
    """The real cells that a clone has: 60 labelled and 25 test images."""
    return REPO_ROOT / "datasets" / "sample"


@pytest.fixture(scope="session")
def run_tool() -> RunTool:
    """Runs ``tools/<name>.py`` in a process of its own: ``run_tool("convert_tifs", "--input", path, ENV="value")``."""

    def run(name: str, *arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(REPO_ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT), "OMP_NUM_THREADS": "1", **env}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def nuclei(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, converted and registered with Detectron2 as ``nuclei_train``, ``nuclei_val``, ..."""
    import cellseg_d2
    from cellseg_d2.conversion.convert import convert
    from cellseg_d2.conversion.options import ConvertOptions

    folder = tmp_path_factory.mktemp("datasets") / "nuclei"
    convert(sample_root, folder, ConvertOptions())
    cellseg_d2.setup(folder.parent)
    return folder


@pytest.fixture(autouse=True)
def package_logging() -> Iterator[None]:
    """Undoes what a command line's ``configure_logging`` does, which would hide log lines from ``caplog``.

    Before a test as well, since a fixture of a module or the session may have run one.
    """
    package = logging.getLogger("cellseg_d2")
    for stage in ("before", "after"):
        package.handlers.clear()
        package.propagate = True
        package.setLevel(logging.NOTSET)
        if stage == "before":
            yield
