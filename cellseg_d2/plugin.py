"""What makes Detectron2 know the plugin: one call registers models, weights and datasets."""

from __future__ import annotations

from pathlib import Path

import cellseg_d2.modeling  # noqa: F401  (registers backbones and heads)
from cellseg_d2.data.catalog import register_all
from cellseg_d2.weights.locations import register_package_weights


def setup(datasets: str | Path | None = None) -> list[str]:
    """Registers the plugin's models and every converted dataset; call it once in each process.

    Args:
        datasets: the folder that holds converted datasets; by default ``$DETECTRON2_DATASETS``, else ``./datasets``.

    Returns:
        Names of the datasets that are registered now, such as ``cells_train``.
    """
    register_package_weights()
    return register_all(datasets)
