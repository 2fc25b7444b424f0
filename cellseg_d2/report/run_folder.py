"""Reads the folder of a training, its OUTPUT_DIR."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cellseg_d2.errors import CellSegError, one_line
from cellseg_d2.report.curves import Curve, curve, read_metrics

METRICS_FILE = "metrics.json"
CONFIG_FILE = "config.yaml"
LOG_FILE = "log.txt"

_PEAK = re.compile(r"\bmax_mem: (\d+)M\b")
"""The peak memory as Detectron2's CommonMetricPrinter writes it, on GPUs only."""

OF_NO_INTEREST = {"OUTPUT_DIR"}
"""Keys that always differ between two runs."""


@dataclass(frozen=True)
class Run:
    """One training, finished or still running.

    Attributes:
        name: the end of its folder's path, as long as it takes to differ from the other runs.
        records: see :func:`cellseg_d2.report.curves.read_metrics`.
        settings: config keys, such as ``SOLVER.BASE_LR``, and their values; none where there is no config.
        peak_mib: peak GPU memory in MiB; NaN if the log has none.
    """

    name: str
    records: list[dict[str, Any]]
    settings: dict[str, Any]
    peak_mib: float

    def curve(self, metric: str) -> Curve:
        """The iterations and values of a metric."""
        return curve(self.records, metric)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the folders of several trainings, in the given order.

    Raises:
        CellSegError: a folder is given twice, holds no metrics, or a file in it is damaged.
    """
    names = _short_names([folder.resolve() for folder in folders])
    return [
        Run(name, read_metrics(folder / METRICS_FILE), _read_settings(folder / CONFIG_FILE), _peak(folder / LOG_FILE))
        for name, folder in zip(names, folders)
    ]


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Config key -> its values in the runs that have a config, for keys that differ; None where a key is missing."""
    settings = [run.settings for run in runs if run.settings]
    keys = sorted({key for of_run in settings for key in of_run} - OF_NO_INTEREST)
    values = {key: [of_run.get(key) for of_run in settings] for key in keys}
    return {key: by_run for key, by_run in values.items() if any(value != by_run[0] for value in by_run)}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One mapping, with keys such as ``SOLVER.BASE_LR``, for nested mappings."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as are needed to make all names different.

    Raises:
        CellSegError: two paths are the same.
    """
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise CellSegError(f"{twice}: is given twice; give each run once")
    names = [""] * len(folders)
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [str(Path(*folder.parts[-parts:])) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings in the config that Detectron2 writes into a training's folder; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CellSegError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise CellSegError(f"{path}: is not YAML ({one_line(error, 100)}); fix or remove it") from error
    if not isinstance(content, dict):
        raise CellSegError(f"{path}: is not the config of a training; fix or remove it")
    return flat(content)


def _peak(log: Path) -> float:
    if not log.is_file():
        return math.nan
    found = _PEAK.findall(log.read_text(encoding="utf-8", errors="replace"))
    return max(map(float, found), default=math.nan)
