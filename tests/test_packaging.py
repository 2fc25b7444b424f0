import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cellseg_d2"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout: the build writes build/ and an egg-info folder beside setup.py."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.tif", "*.png")
    for name in ["cellseg_d2", "configs", "tools", "tests"]:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ["setup.py", "pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_config_and_template(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    configs = {f"cellseg_d2/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    templates = {str(path.relative_to(ROOT)) for path in (PACKAGE / "report" / "templates").iterdir()}
    assert configs and templates
    weights = {"cellseg_d2/weights/published/nuclei.pth"}
    assert configs | modules | templates | weights | {"cellseg_d2/py.typed"} <= names


def test_the_wheel_has_no_top_level_package_but_its_own(wheel: Path) -> None:
    # Detectron2's own wheel drops a package `tools` into site-packages; two of them would overwrite each other.
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {name for name in top_level if not name.endswith(".dist-info")} == {"cellseg_d2"}


def test_the_version_is_the_packages(wheel: Path) -> None:
    assert _metadata(wheel)["Version"] == re.search(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())[1]


def test_newer_torch_numpy_and_other_builds_of_detectron2_are_allowed(wheel: Path) -> None:
    required = {canonicalize_name(need.name): need for need in _requirements(wheel) if need.marker is None}

    assert "sal-detectron2" not in required
    for name, version in {"torch": "2.15", "torchvision": "0.29.2", "numpy": "2.5", "iopath": "0.1.9"}.items():
        assert required[name].specifier.contains(version)


@pytest.mark.parametrize("lock", ["py310", "current"])
def test_setup_installs_every_requirement_at_a_version_within_its_bounds(wheel: Path, lock: str) -> None:
    locked = [Requirement(line) for line in (*_lines("build.txt"), *_lines(f"{lock}.txt"), *_lines("detectron2.txt"))]
    pins: dict[str, list[Requirement]] = {}
    for pin in locked:
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)

    for need in _requirements(wheel):
        found = pins[canonicalize_name(need.name)]
        assert all(need.specifier.contains(_exact(pin)) for pin in found), f"{need} and {lock}'s {found} do not fit"


@pytest.mark.parametrize("lock", ["build", "py310", "current", "detectron2", "sahi", "stardist"])
def test_every_locked_package_has_an_exact_version_and_a_hash(lock: str) -> None:
    for line in _lines(f"{lock}.txt", hashes=True):
        assert "==" in line and "--hash=sha256:" in line, line


def test_the_packages_here_are_the_locked_ones() -> None:
    lock = "py310" if sys.version_info < (3, 11) else "current"
    for pin in map(Requirement, _lines(f"{lock}.txt")):
        if pin.marker is None or pin.marker.evaluate():
            assert Version(metadata.version(pin.name)).public == _exact(pin).public, pin.name


def test_an_installed_plugin_finds_its_configs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import cellseg_d2 as c; print(c.__file__, c.get_cfg('mask_rcnn_R_50_FPN').MODEL.RESNETS.DEPTH)"

    module, depth = _python(code, tmp_path / "installed", folder=tmp_path).split()

    assert Path(module).is_relative_to(tmp_path)
    assert depth == "50"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, outside the checkout; its requirements are those of this Python."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    return folder


def _run_installed(installed: Path, folder: Path, *words: object) -> str:
    """What ``cellseg-d2 WORDS`` prints, run from ``folder`` with the installed package."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "OMP_NUM_THREADS": "1",
        "DETECTRON2_DATASETS": "datasets",
    }
    command = [sys.executable, str(installed / "bin" / "cellseg-d2"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_lists_its_verbs(installed: Path, tmp_path: Path) -> None:
    assert Path(_python("import cellseg_d2; print(cellseg_d2.__file__)", installed, tmp_path)).is_relative_to(installed)
    assert "  convert " in _run_installed(installed, tmp_path, "--help")


def test_the_installed_command_converts_and_predicts(installed: Path, tmp_path: Path, sample_root: Path) -> None:
    printed = _run_installed(installed, tmp_path, "convert", "--input", sample_root, "--output", "datasets/nuclei")
    assert "train: 47 images" in printed
    code = (
        "import cellseg_d2; from detectron2.modeling import build_model\n"
        "from cellseg_d2.weights.checkpoint import CellCheckpointer\n"
        "cellseg_d2.setup()\n"
        "keys = ['MODEL.DEVICE', 'cpu', 'OUTPUT_DIR', '.', 'MODEL.ROI_HEADS.NUM_CLASSES', '1',"
        " 'CELLSEG.CLASS_NAMES', '[\\'nucleus\\']', 'TEST.DETECTIONS_PER_IMAGE', '9']\n"
        "cfg = cellseg_d2.get_cfg('mask_rcnn_lite0_FPN', keys)\n"
        "CellCheckpointer(build_model(cfg), cfg, strict=True).save_weights('model')"
    )
    _python(code, installed, tmp_path)
    image = min((sample_root / "test_release").glob("*.tif"), key=lambda path: path.stat().st_size)
    _run_installed(installed, tmp_path, "predict", "--weights", "model.pth", "--input", image, "--output", "results")
    assert (tmp_path / "results" / "test-results.json").is_file()
    assert (tmp_path / "results" / "overlays" / f"{image.stem}.png").is_file()


def test_importing_the_package_loads_neither_torch_nor_detectron2() -> None:
    loaded = _python("import sys, cellseg_d2; print(*[name for name in sys.modules if '.' not in name])").split()

    assert "cellseg_d2" in loaded
    assert not {"torch", "detectron2", "albumentations", "cv2"} & set(loaded)


def test_the_modules_without_a_model_are_imported_without_torch_and_detectron2() -> None:
    names = ["inference/stitch", "commands/doctor", "commands/cli", "commands/convert"]
    for package in ("cells", "images", "annotations", "conversion", "evaluation", "export"):
        names += [f"{package}/{path.stem}" for path in (PACKAGE / package).glob("*.py") if path.stem != "__init__"]
    modules = [f"cellseg_d2.{name.replace('/', '.')}" for name in names]

    loaded = _python(
        "import importlib, sys\n"
        "sys.modules.update(torch=None, detectron2=None)\n"
        f"for name in {modules!r}: print(importlib.import_module(name).__name__)"
    )

    assert loaded.split() == modules


def _python(code: str, python_path: Path = ROOT, folder: Path = ROOT) -> str:
    """What a fresh interpreter prints that runs in ``folder`` with ``python_path`` before all installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(python_path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _metadata(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def _requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist")]


def _lines(name: str, hashes: bool = False) -> list[str]:
    """The requirements of a file under requirements/, without comments and, unless wanted, without hashes."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line if hashes else line.split("--hash")[0].strip() for line in lines if line]


def _exact(pin: Requirement) -> Version:
    """The version of a requirement ``name==version``."""
    (only,) = pin.specifier
    return Version(only.version)
