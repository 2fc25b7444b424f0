"""Reports what a bug report needs to know about an installation, and what is wrong with it.

Everything is tried, not only looked up: packages are imported, a TIFF is decoded, an operator is run. The import of a
broken package can raise anything (OSError for a missing library, AttributeError for a numpy mismatch), so each probe
turns every exception into a line of the report. This command must run even where no other does.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import cellseg_d2
from cellseg_d2.commands.cli import ToolParser
from cellseg_d2.commands.trial import trials
from cellseg_d2.errors import CellSegError

OPENCV_BUILDS = {"opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless"}
SHARED_MEMORY_WANTED = 1 << 30
"""The least free bytes of shared memory, which loader processes use for batches; containers often have only 64 MB."""

SAFE_TORCH = (2, 6)
"""The first release whose ``torch.load`` runs no code of a TorchScript archive."""


@dataclass(frozen=True)
class Problem:
    """A problem, and the command or setting that fixes it."""

    what: str
    fix: str


@dataclass
class Report:
    """The findings, in the order of the report."""

    lines: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, name: str, value: object) -> None:
        """Adds one line of the table."""
        self.lines.append(f"{name + ':':<24}{value}")

    def problem(self, what: str, fix: str) -> None:
        """Adds a problem."""
        self.problems.append(Problem(what, fix))


def examine(shared_memory: Path = Path("/dev/shm")) -> Report:
    """Examines the running interpreter's packages and the machine."""
    report = Report()
    _system(report, shared_memory)
    torch = _package(report, "torch", "torch", "pip install torch torchvision")
    if torch is not None:
        _torch(report, torch)
    _detectron2(report)
    _setuptools(report)
    _package(report, "numpy", "numpy", "pip install numpy")
    _package(report, "albumentations", "albumentations", "pip install 'albumentations>=2.0.8'")
    _opencv(report)
    tifffile = _package(report, "tifffile", "tifffile", "pip install tifffile")
    imagecodecs = _package(report, "imagecodecs", "imagecodecs", "pip install imagecodecs (tifffile needs it for LZW)")
    if tifffile is not None and imagecodecs is not None:
        _lzw(report)
    _package(report, "pycocotools", "pycocotools.mask", "pip install --force-reinstall --no-deps pycocotools")
    _package(report, "faster-coco-eval", "faster_coco_eval", "pip install faster-coco-eval")
    return report


def _system(report: Report, shared_memory: Path) -> None:
    report.add("cellseg_d2", f"{cellseg_d2.__version__} in {Path(cellseg_d2.__file__).parent}")
    report.add("Python", f"{platform.python_version()} ({sys.executable})")
    report.add("system", platform.platform())
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report.add("cores", f"{allowed} of {os.cpu_count()} usable")
    if shared_memory.is_dir():
        free = shutil.disk_usage(shared_memory).free
        report.add("free shared memory", f"{free / 2**30:.1f} GiB in {shared_memory}")
        if free < SHARED_MEMORY_WANTED:
            report.problem(
                f"only {free / 2**20:.0f} MiB of shared memory are free; loader processes die with a bus error",
                "start the container with --shm-size=8g (or --ipc=host), or train with DATALOADER.NUM_WORKERS 0",
            )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cause(error: BaseException) -> str:
    """The first line of an exception's message, because a finding has one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _package(report: Report, distribution: str, module: str, fix: str) -> ModuleType | None:
    """Imports one package; reports its version, or why it cannot be imported."""
    try:
        imported = import_module(module)
    except Exception as error:
        report.add(distribution, f"{_version(distribution)}, cannot be imported ({_cause(error)})")
        report.problem(f"{distribution} cannot be imported ({_cause(error)})", fix)
        return None
    report.add(distribution, getattr(imported, "__version__", None) or _version(distribution))
    return imported


def _torch(report: Report, torch: ModuleType) -> None:
    report_known_holes(report, str(torch.__version__))
    report.add("torch threads", torch.get_num_threads())
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    report.add("CUDA", f"built for {torch.version.cuda or 'none'}; available: {torch.cuda.is_available()}")
    report.add("GPUs", ", ".join(devices) or "none")
    if not devices and _driver_sees_gpu():
        report.problem(
            f"nvidia-smi lists a GPU, but torch {torch.__version__} cannot use it",
            "install a torch that is built for CUDA and for this driver, and check CUDA_VISIBLE_DEVICES",
        )
    if _package(report, "torchvision", "torchvision", "install the torchvision that goes with this torch") is None:
        return
    for device in ["cpu", "cuda"] if devices else ["cpu"]:
        try:
            boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]], device=device)
            kept = import_module("torchvision.ops").nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5).tolist()
            if kept != [0]:
                raise RuntimeError(f"it kept {kept} of two boxes that are nearly the same")
        except Exception as error:
            report.problem(
                f"torchvision.ops.nms fails on {device} ({_cause(error)})",
                "install torch and torchvision of the same release and from the same index (both CPU or both CUDA)",
            )


def report_known_holes(report: Report, version: str) -> None:
    """Reports a version of torch, such as "2.3.1+cpu", in which a known hole is open."""
    release = re.match(r"(\d+)\.(\d+)", version)
    if release and (int(release[1]), int(release[2])) < SAFE_TORCH:
        report.problem(
            f"torch {version} runs code of TorchScript archives in torch.load, with weights_only too (CVE-2025-32434)",
            "pip install -U 'torch>=2.6' and the torchvision that goes with it; until then open foreign weights with "
            "cellseg-d2 alone, which refuses such files",
        )


def _driver_sees_gpu() -> bool:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "GPU " in listed


def _detectron2(report: Report) -> None:
    detectron2 = _package(report, "detectron2", "detectron2", "make setup, or the line in docs/install.md")
    if detectron2 is None:
        return
    try:
        import_module("detectron2._C")
        report.add("detectron2._C", "loads; nothing here needs it")
    except ImportError:  # not there, or built for another Python or torch: Detectron2 goes on without it
        report.add("detectron2._C", "does not load; nothing here needs it")
    except Exception as error:
        report.add("detectron2._C", f"does not load ({_cause(error)})")
        report.problem(
            f"Detectron2's compiled part breaks the import of its layers ({_cause(error)})",
            f"remove {Path(detectron2.__path__[0])}/_C*, which nothing here needs",
        )


def _setuptools(report: Report) -> None:
    report.add("setuptools", _version("setuptools"))
    if importlib.util.find_spec("pkg_resources") is None:
        report.problem(
            f"setuptools ({_version('setuptools')}) has no pkg_resources, which Detectron2's model_zoo imports",
            "pip install 'setuptools<82'",
        )


def _opencv(report: Report) -> None:
    _package(report, "opencv", "cv2", "pip install opencv-python-headless (opencv-python needs a display library)")
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in metadata.distributions()}
    builds = sorted(names & OPENCV_BUILDS)
    report.add("opencv builds", ", ".join(f"{name} {_version(name)}" for name in builds) or "none from pip")
    if len(builds) > 1:
        report.problem(
            f"{' and '.join(builds)} are installed and overwrite each other's files",
            f"pip uninstall -y {' '.join(builds)} && pip install opencv-python-headless",
        )


def _lzw(report: Report) -> None:
    """Writes and reads an LZW-compressed tile in memory, because most label TIFFs consist of such tiles."""
    import numpy as np
    import tifffile

    labels = np.arange(32 * 32, dtype=np.int32).reshape(32, 32)
    file = io.BytesIO()
    try:
        tifffile.imwrite(file, labels, compression="lzw", tile=(16, 16))
        if not np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), labels):
            raise ValueError("other values were read than were written")
        report.add("LZW tile", "decodes")
    except Exception as error:
        report.add("LZW tile", f"does not decode ({_cause(error)})")
        report.problem(f"LZW-compressed TIFFs cannot be read ({_cause(error)})", "pip install -U tifffile imagecodecs")


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        "Prints what a bug report needs about this installation, and what is wrong with it (exit code 1)."
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="also try the main job on drawn images, for a minute: decode, convert, train a step, predict; exit code 2 "
        "where one of them fails",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; exit code 1 where something is wrong, 2 where the main job fails."""
    args = build_parser().parse_args(argv)
    report = examine()
    print("\n".join(report.lines), flush=True)
    failed = _try_all() if args.deep else []
    if report.problems:
        print(f"\nProblems found: {len(report.problems)}")
    for problem in report.problems:
        print(f"- {problem.what}\n  fix: {problem.fix}")
    if failed:
        raise CellSegError(f"{len(failed)} of what was tried failed: {'; '.join(failed)}")
    if not report.problems:
        print("\nNo problem found.")
    return 1 if report.problems else 0


def _try_all() -> list[str]:
    """Prints how each trial ended, and gives the lines of those that failed."""
    print("\nTried:")
    failed = []
    for trial in trials():
        print(f"- {trial.line()}", flush=True)
        if not trial.passed:
            failed.append(f"{trial.what} ({trial.ended})")
    return failed
