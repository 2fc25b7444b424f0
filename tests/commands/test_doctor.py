import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellseg_d2.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_line_lists_the_versions_and_its_exit_code_says_whether_there_are_problems() -> None:
    result = _doctor()

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


def test_a_detectron2_without_its_compiled_part_is_no_problem() -> None:
    report = _examine_without("detectron2._C")

    assert [line.split(":")[1].strip() for line in report["lines"] if line.startswith("detectron2._C")] == [
        "does not load; nothing here needs it"
    ]
    assert not any("compiled" in found["what"] or "_C" in found["what"] for found in report["problems"])


@pytest.mark.parametrize(
    ("version", "named"), [("2.3.1+cu121", True), ("2.5.1", True), ("2.6.0", False), ("2.14.1+cpu", False)]
)
def test_a_torch_with_known_holes_is_a_problem(version: str, named: bool) -> None:
    report = doctor.Report()
    doctor.report_known_holes(report, version)

    assert [f"torch {version} " in found.what and "CVE-2025-32434" in found.what for found in report.problems] == (
        [True] if named else []
    )
    assert all("'torch>=2.6'" in found.fix and "refuses such files" in found.fix for found in report.problems)


def test_the_installed_torch_is_judged_by_its_release() -> None:
    named = any("CVE-2025-32434" in found.what for found in doctor.examine().problems)

    assert named == (torch.__version__ < (2, 6))


def test_deep_does_the_main_job() -> None:
    result = _doctor("--deep")

    tried = result.stdout.split("Tried:\n")[1].split("\n\n")[0].splitlines()
    assert [re.sub(r"[\d.]+ s", "T s", line) for line in tried[:1]] == [
        "- decode LZW-compressed TIFF tiles: done in T s, 64 x 64 values as they were written"
    ]
    assert re.fullmatch(r"- convert .* train the laptop model for one step: done in .* total loss \d[\d.]*", tried[1])
    assert re.fullmatch(r"- predict an image .*: done in .* s, all 4 nuclei found", tried[2])
    assert len(tried) == 3
    assert result.returncode == (1 if "Problems found" in result.stdout else 0), result.stdout + result.stderr


def test_deep_says_what_failed_and_why(tmp_path: Path) -> None:
    (tmp_path / "efficientnet_lite_pytorch.py").write_text("raise ImportError('libfoo.so.8: cannot be opened')\n")

    result = _doctor("--deep", python_path=tmp_path)

    assert result.returncode == 2
    assert "- decode LZW-compressed TIFF tiles: done in" in result.stdout
    assert result.stdout.count("FAILED after") == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: 2 of what was tried failed: convert 4 images of 64 px and train the laptop model")
    assert "(train ended with exit code 2: error: the laptop model needs its network: pip install" in line
    assert "predict an image of 64 px with the weights nuclei (predict ended with exit code 2" in line


def test_deep_survives_a_codec_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "imagecodecs.py").write_text("raise ImportError('libjpeg.so.8: cannot be opened')\n")

    result = _doctor("--deep", python_path=tmp_path)

    assert result.returncode == 2
    assert re.search(
        r"decode LZW-compressed TIFF tiles: FAILED after .* requires the 'imagecodecs' pack", result.stdout
    )


def _doctor(*options: str, python_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/doctor.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_environment(python_path), check=False)


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
    folders = [*([str(python_path)] if python_path else []), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
