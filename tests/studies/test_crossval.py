"""The table of a cross-validation."""

import json
import math
import statistics

from cellseg_d2.studies.crossval import METRICS, Score, markdown, mean_and_spread, summary

VALUES = [41.25, 47.5, 44.0]


def scores(values=VALUES):
    return [Score(number, 4 + number, dict.fromkeys(METRICS, value)) for number, value in enumerate(values, start=1)]


def test_mean_and_spread_are_those_of_a_sample():
    mean, spread = mean_and_spread(VALUES)
    assert math.isclose(mean, statistics.mean(VALUES))
    assert math.isclose(spread, statistics.stdev(VALUES))
    assert all(map(math.isnan, mean_and_spread([math.nan])))


def test_the_table_has_a_row_per_fold_and_one_for_all():
    lines = markdown(scores(), "the command").splitlines()
    assert lines[0] == "`the command`"
    assert lines[-1].startswith(f"| mean ± standard deviation | {5 + 6 + 7} | ")
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(VALUES) + 1


def test_what_cannot_be_measured_is_a_dash_and_null():
    values = [math.nan, math.nan, 30.0]
    assert markdown(scores(values), "").splitlines()[-1].endswith("| 30.0 ± - | 30.0 ± - | 30.0 ± - |")
    content = json.loads(json.dumps(summary(scores(values), "")))
    assert content["folds"][0]["AP50"] is None
    assert content["mean"]["PQ"] == 30.0
    assert content["standard_deviation"]["PQ"] is None
