import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cellseg_d2.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_line_lists_the_versions_and_its_exit_code_says_whether_there_are_problems() -> None:
    result = subprocess.run(
        [sys.executable, "tools/doctor.py"], cwd=ROOT, capture_output=True, text=True, env=_environment(), check=False
    )

    table = dict(re.findall(r"^([\w.-][\w. -]*): +(.+)$", result.stdout.split("\n\n")[0], re.MULTILINE))
    assert table["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"torch", "torchvision", "CUDA", "detectron2", "detectron2._C", "numpy", "albumentations"} <= table.keys()
    assert {"opencv", "tifffile", "imagecodecs", "pycocotools", "faster-coco-eval", "cores"} <= table.keys()
    assert table["LZW tile"] == "decodes"
    problems = re.findall(r"^- .+\n  fix: .+$", result.stdout, re.MULTILINE)
    assert ("No problem found." in result.stdout) == (not problems)
    assert result.returncode == (1 if problems else 0), result.stdout + result.stderr


def test_missing_packages_are_problems_and_no_crash() -> None:
    report = _examine_without("torch", "detectron2", "imagecodecs", "albumentations")

    found = {problem["what"].split()[0]: problem["fix"] for problem in report["problems"]}
    assert {"torch", "detectron2", "imagecodecs", "albumentations"} <= found.keys()
    assert "pip install imagecodecs" in found["imagecodecs"]
    assert any(line.startswith("numpy:") for line in report["lines"])


def test_setuptools_without_pkg_resources_is_a_problem() -> None:
    problems = _examine_without("pkg_resources", "torch")["problems"]

    fixes = [found["fix"] for found in problems if "pkg_resources" in found["what"]]
    assert fixes == ["pip install 'setuptools<82'"]


def test_two_builds_of_opencv_are_a_problem(tmp_path: Path) -> None:
    for name in ["opencv_python", "opencv_python_headless"]:
        folder = tmp_path / f"{name}-4.11.0.86.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 4.11.0.86\n")

    problems = _examine_without("torch", "detectron2", python_path=tmp_path)["problems"]

    assert [found["fix"] for found in problems if "overwrite" in found["what"]] == [
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    ]


def test_an_lzw_tile_that_does_not_decode_is_a_problem() -> None:
    # imagecodecs loads each codec on first use, so a broken one shows in the tile and not in the import.
    report = _examine_without("imagecodecs._imcd", "torch", "detectron2")

    assert [found["fix"] for found in report["problems"] if "LZW" in found["what"]] == [
        "pip install -U tifffile imagecodecs"
    ]
    assert any(line.startswith("LZW tile:") and "does not decode" in line for line in report["lines"])


def test_little_shared_memory_is_a_problem(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY_WANTED", 1 << 80)

    report = doctor.examine(shared_memory=tmp_path)

    assert ["--shm-size" in found.fix for found in report.problems if "shared memory" in found.what] == [True]
    assert any(line.startswith("free shared memory:") for line in report.lines)


def test_a_system_without_a_shared_memory_folder_has_no_such_line(tmp_path: Path) -> None:
    report = doctor.examine(shared_memory=tmp_path / "none")

    assert not any("shared memory" in line for line in report.lines)
    assert not any("shared memory" in found.what for found in report.problems)


def _examine_without(*modules: str, python_path: Path | None = None) -> dict:
    """The report of a fresh interpreter in which the modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
        "import dataclasses, json\nfrom cellseg_d2.commands import doctor\n"
        "print(json.dumps(dataclasses.asdict(doctor.examine())))"
    )
    environment = _environment(python_path)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def _environment(python_path: Path | None = None) -> dict[str, str]:
    """The checkout on the path, so that the tests need no installed cellseg_d2."""
    folders = [str(ROOT), *([str(python_path)] if python_path else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
