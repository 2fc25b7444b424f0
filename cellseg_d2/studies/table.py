"""The results of a study as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cellseg_d2.studies.arms import Study
from cellseg_d2.studies.results import Finished

COLUMNS = ("arm", "validation AP50", "test AP50", "times the first", "final loss", "training s")

LEAST_AP50 = 1.0
"""Below this AP50 of the first arm, ratios are left out, because they would compare chance hits."""


def markdown(study: Study, finished: Mapping[str, Sequence[Finished]], command: str) -> str:
    """A table with each arm's mean over its seeds, and their range where there are several.

    Args:
        study: what was compared.
        finished: name of an arm -> its runs.
        command: the command that gave the results.

    Returns:
        A section of Markdown. The column "times the first" compares test AP50, or validation AP50 where the test images
        have no ground truth. It is left out where the first arm has found next to nothing.
    """
    rule = ["---"] + ["---:"] * (len(COLUMNS) - 1)
    rows = []
    first = math.nan
    for number, arm in enumerate(study.arms):
        results = [run.result for run in finished[arm.name]]
        validation, test = [r.validation_ap50 for r in results], [r.test_ap50 for r in results]
        score = float(np.mean(validation if math.isnan(test[0]) else test))
        first = first if number else score
        rows.append(
            [
                arm.label,
                spread(validation, 1),
                spread(test, 1),
                f"{score / first:.2f}" if first >= LEAST_AP50 else "-",
                spread([r.loss for r in results], 3),
                spread([r.seconds for r in results], 0),
            ]
        )
    runs = finished[study.arms[0].name]
    text = f"`{command}`; {runs[0].losses[-1][0] + 1} iterations per run, seeds per arm: {len(runs)}."
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, rule, *rows)]
    if any("-" in row for row in rows):
        text += " A dash is a number that could not be measured, such as the AP50 of images without ground truth."
    return "\n".join([f"### {study.title}", "", text, "", *lines, ""])


def spread(values: Sequence[float], digits: int) -> str:
    """``mean (smallest-largest)``, or only the mean of a single value, or a dash where a value is not known.

    >>> spread([1.0, 2.0], 1), spread([1.0], 1), spread([float("nan")], 1)
    ('1.5 (1.0-2.0)', '1.0', '-')
    """
    if any(math.isnan(value) for value in values):
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"
