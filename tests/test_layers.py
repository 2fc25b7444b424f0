"""The package graph: imports point downwards only, and the light packages stay free of torch and Detectron2."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = """
    errors files outputs progress signals array_pickle
    config
    cells
    images
    annotations
    conversion
    structures
    modeling
    config_checks
    weights
    data
    plugin
    evaluation
    export
    inference
    deployment
    report
    engine
    studies
    commands
    __main__
"""
"""Bottom up: a package imports from those above it in this list, and a line's members never from each other's right."""

ORDER = [name for line in LAYERS.split("\n") for name in line.split()]
LIGHT = ("cells", "images", "annotations", "conversion", "evaluation", "export")


def module_files(repo_root: Path) -> Iterator[tuple[str, Path]]:
    """Each module's package, the part after ``cellseg_d2``, and its file, without ``cellseg_d2/__init__.py``."""
    package = repo_root / "cellseg_d2"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imported_modules(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_package_has_its_place_in_the_list(repo_root):
    assert {package for package, _ in module_files(repo_root)} == set(ORDER)


def test_imports_point_downwards(repo_root):
    upwards = []
    for package, path in module_files(repo_root):
        for name in imported_modules(path):
            first, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if first == "cellseg_d2" and target in ORDER and ORDER.index(target) > ORDER.index(package):
                upwards.append(f"{path.relative_to(repo_root)} imports {name}")
    assert not upwards


@pytest.mark.parametrize("package", LIGHT)
def test_the_light_packages_name_neither_torch_nor_detectron2(package, repo_root):
    heavy = [
        f"{path.relative_to(repo_root)} imports {name}"
        for own, path in module_files(repo_root)
        for name in imported_modules(path)
        if own == package and name.split(".")[0] in ("torch", "torchvision", "detectron2", "fvcore")
    ]
    assert not heavy


def test_conversion_loads_neither_torch_nor_detectron2():
    code = (
        "import sys, cellseg_d2.conversion.check, cellseg_d2.annotations.monusac, cellseg_d2.export.geojson\n"
        "sys.exit(', '.join({'torch', 'detectron2'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
