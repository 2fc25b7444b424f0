"""What a model contradicts in labels: each kind on cases worked by hand, and crowds."""

import numpy as np
import pytest
from drawing import pycocotools_rle

from cellseg_d2.evaluation.contradictions import contradictions
from cellseg_d2.evaluation.overlap_table import Cells

SIZE = (40, 60)


def box(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT, BOTH = box(10, 10, 18, 20), box(18, 10, 26, 20), box(10, 10, 26, 20)
FAR = box(40, 20, 50, 30)


def cells(masks, crowd=None):
    """Of (mask, class) or (mask, class, score)."""
    scores = [own[2] if len(own) > 2 else 1.0 for own in masks]
    return Cells.from_rles([pycocotools_rle(own[0]) for own in masks], SIZE, [own[1] for own in masks], scores, crowd)


def found(truth, predictions, crowd=None, min_score=0.05):
    """Kind, numbers, classes and score of each contradiction."""
    return sorted(
        (one.kind, one.cells, one.predictions, one.labelled, one.predicted, round(one.score, 3))
        for one in contradictions(cells(truth, crowd), cells(predictions), min_score)
    )


@pytest.mark.parametrize(
    ("truth", "predictions", "expected"),
    [
        pytest.param([(LEFT, 0)], [(LEFT, 0, 0.9)], [], id="they agree"),
        pytest.param([(LEFT, 0)], [(box(10, 10, 18, 16), 0, 0.9)], [], id="an outline is none of the kinds"),
        pytest.param([], [(LEFT, 1, 0.8)], [("missing", (), (0,), -1, 1, 0.8)], id="missing"),
        pytest.param(
            [(LEFT, 0)], [(LEFT, 0, 0.9), (RIGHT, 0, 0.7)], [("missing", (), (1,), -1, 0, 0.7)], id="missing, touching"
        ),
        pytest.param([(LEFT, 1)], [], [("spurious", (0,), (), 1, -1, 1.0)], id="spurious"),
        pytest.param(
            [(LEFT, 0)], [(LEFT, 0, 0.2)], [("spurious", (0,), (), 0, -1, 0.8)], id="seen, but with a low score"
        ),
        pytest.param([(LEFT, 0)], [(LEFT, 1, 0.9)], [("wrong class", (0,), (0,), 0, 1, 0.9)], id="wrong class"),
        pytest.param(
            [(LEFT, 0)],
            [(LEFT, 0, 0.3), (LEFT, 1, 0.9)],
            [("wrong class", (0,), (1,), 0, 1, 0.6)],
            id="the labelled class speaks against a wrong one",
        ),
        pytest.param([(LEFT, 0)], [(LEFT, 0, 0.9), (LEFT, 1, 0.3)], [], id="the right class is the better one"),
        pytest.param(
            [(BOTH, 0)],
            [(LEFT, 0, 0.8), (RIGHT, 0, 0.9)],
            [("merged", (0,), (1, 0), 0, 0, 0.8)],
            id="merged, as sure as the second part",
        ),
        pytest.param(
            [(BOTH, 0)], [(BOTH, 0, 0.95), (LEFT, 0, 0.8), (RIGHT, 0, 0.9)], [], id="the whole is the better one"
        ),
        pytest.param(
            [(LEFT, 0), (RIGHT, 0)], [(BOTH, 0, 0.9)], [("split", (0, 1), (0,), 0, 0, 0.9)], id="split in two"
        ),
        pytest.param(
            [(LEFT, 0), (RIGHT, 0)],
            [(LEFT, 0, 0.95), (RIGHT, 0, 0.95), (BOTH, 0, 0.9)],
            [],
            id="the parts are the better ones",
        ),
        pytest.param(
            [(LEFT, 0), (FAR, 0)],
            [(FAR, 0, 0.9), (RIGHT, 1, 0.6)],
            [("missing", (), (1,), -1, 1, 0.6), ("spurious", (0,), (), 0, -1, 1.0)],
            id="two at once",
        ),
        pytest.param([], [], [], id="nothing at all"),
    ],
)
def test_a_case_worked_by_hand(truth, predictions, expected):
    assert found(truth, predictions) == expected


def test_crowds_excuse_what_lies_on_them():
    assert found([(BOTH, 0)], [(LEFT, 1, 0.9)], crowd=[True]) == []
    assert found([(BOTH, 0)], [], crowd=[True]) == []


def test_predictions_without_a_pixel_are_nothing():
    assert found([(LEFT, 0)], [(box(0, 0, 0, 0), 0, 0.9), (LEFT, 0, 0.8)]) == []


def test_a_guess_of_low_score_does_not_stand_before_what_the_model_is_sure_of():
    """A bump in the cell would make it merged, and a cell that is merged is no longer of the wrong class."""
    predictions = [(LEFT, 1, 0.9), (RIGHT, 0, 0.1)]
    assert [one[0] for one in found([(BOTH, 0)], predictions)] == ["merged"]
    assert found([(BOTH, 0)], predictions, min_score=0.5) == [("wrong class", (0,), (0,), 0, 1, 0.8)]
