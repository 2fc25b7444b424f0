"""Which cells of results people see, by what predict wrote beside them."""

import json

import pytest

from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.export.record import Record, selected_cells

NAMES = ["round", "long"]
KNOWN = {"min_score": 0.3, "min_score_of_class": {"long": 0.7}, "method": "none", "iou": 0.4, "most_covered": 0.6}


@pytest.fixture
def results(tmp_path):
    Record(NAMES, KNOWN).write(tmp_path)
    return tmp_path / "test-results.json"


def test_results_of_predict_are_selected_as_predict_did(results):
    assert selected_cells(results, NAMES) == Selection(NAMES, **KNOWN)


def test_classes_in_another_order_keep_their_scores(results):
    assert selected_cells(results, NAMES[::-1]).least == {"long": 0.7, "round": 0.3}


def test_a_given_score_leaves_the_rule_for_hidden_cells(results):
    selection = selected_cells(results, NAMES, 0.1)
    assert selection.least == {"round": 0.1, "long": 0.1}
    assert (selection.method, selection.iou, selection.most_covered) == ("none", 0.4, 0.6)


def test_results_without_a_record_count_from_a_half_on(tmp_path):
    assert selected_cells(tmp_path / "results.json", NAMES) == Selection(NAMES, 0.5)
    assert selected_cells(tmp_path / "results.json", NAMES, 0.2) == Selection(NAMES, 0.2)


def test_a_record_of_other_classes_is_said_and_not_used(results, caplog):
    rule = {key: KNOWN[key] for key in ("method", "iou", "most_covered")}
    assert selected_cells(results, ["cell"]) == Selection(["cell"], 0.5, **rule)
    assert "is of the classes round, long, not cell; predictions of a score from 0.5 on" in caplog.text


def test_one_class_of_another_name_keeps_its_score(tmp_path, caplog):
    Record(["nucleus"], {"min_score": 0.5, "min_score_of_class": {"nucleus": 0.4}}).write(tmp_path)
    assert selected_cells(tmp_path / "test-results.json", ["cell"]) == Selection(["cell"], 0.4)
    assert "from 0.4 on" in caplog.text


@pytest.mark.parametrize(
    "selection", [{"iou": 2}, {"size": 3}, {"min_score": "high"}, {"min_score_of_class": [1]}, {"min_score": None}]
)
def test_a_damaged_selection_is_refused(results, selection):
    record = json.loads((results.parent / "prediction.json").read_text())
    (results.parent / "prediction.json").write_text(json.dumps({**record, "selection": selection}))
    with pytest.raises(CellSegError, match=r"prediction\.json: is not what predict writes"):
        selected_cells(results, NAMES)
