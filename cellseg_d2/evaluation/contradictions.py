"""Labelled cells that a model contradicts: what a person should look at again, each with how sure the model is.

A cell and a prediction that agree, with an IoU of at least 0.5 and the same class, say nothing. Of the rest, the first
that fits:

- merged: two predictions or more lie in one labelled cell, and cover half of it;
- split: one prediction covers two labelled cells or more, which make half of it;
- wrong class: a prediction of another class has an IoU of at least 0.5 with the cell;
- missing: a prediction where no cell is labelled;
- spurious: a labelled cell near which the model sees nothing, of any class and score.

A cell with a poor outline is none of these. Crowds, the regions to ignore, excuse what lies on them by half.

Sources: confident learning (Northcutt, Jiang and Chuang, JAIR 2021) compares labels with predictions that were made
without them; here each kind has its score in place of a class's probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellseg_d2.cells.arrays import Bools, Floats, Ints
from cellseg_d2.cells.hidden import hidden
from cellseg_d2.evaluation.coco_matching import MATCHED
from cellseg_d2.evaluation.error_breakdown import NEAR
from cellseg_d2.evaluation.overlap_table import Cells, Pairs, whole_overlaps

KINDS = ("missing", "spurious", "wrong class", "merged", "split")

INSIDE = 0.6
"""The least share of a part that lies in the whole, for what is merged or split."""

SMALLEST_PART = 0.1
"""The least share of the whole that a part has: less is a bump."""

HALF = 0.5
"""The share that parts make of the whole at least, and from which on something lies on labelled cells or crowds."""


@dataclass(frozen=True)
class Contradiction:
    """A place of an image where labels and model do not agree.

    Attributes:
        kind: one of :data:`KINDS`.
        cells: numbers of the labelled cells; none for ``missing``.
        predictions: numbers of the predictions; none for ``spurious``.
        labelled, predicted: the class in the labels and by the model; -1 where there is none.
        score: how sure the model is, in 0 .. 1.
    """

    kind: str
    cells: tuple[int, ...]
    predictions: tuple[int, ...]
    labelled: int
    predicted: int
    score: float


def contradictions(truth: Cells, predictions: Cells, min_score: float) -> list[Contradiction]:
    """The contradictions of one image, in no order.

    Args:
        truth: its labelled cells, and crowds.
        predictions: the model's, down to low scores, in any order. Those below ``min_score``, and those that better
            ones hide, count only as signs that the model sees a cell, or sees it as its labelled class.
        min_score: how sure the model is at least.
    """
    table = _Table.of(truth, predictions, min_score)
    merged, split = table.merged(), table.split()
    done = {cell for found in (*merged, *split) for cell in found.cells}
    used = {number for found in (*merged, *split) for number in found.predictions}
    wrong = [found for found in table.wrong_classes() if found.cells[0] not in done and found.score >= min_score]
    used |= {number for found in wrong for number in found.predictions}
    done |= {cell for found in wrong for cell in found.cells}
    missing = [found for found in table.missing() if found.predictions[0] not in used]
    spurious = [found for found in table.spurious() if found.cells[0] not in done and found.score >= min_score]
    return [*merged, *split, *wrong, *missing, *spurious]


@dataclass(frozen=True)
class _Table:
    """The cells and predictions of one image and how they overlap.

    Attributes:
        truth, predictions: as given.
        shown: (P,) bool, predictions of enough score that no better one hides.
        pairs: the pairs of cells, without crowds.
        iou: (M,) float64, of the pairs.
        of_cell, of_prediction: (M,) float64, the share of the cell's and of the prediction's pixels that they share.
        on_crowd: (P,) float64, the share of each prediction on crowds of any class.
    """

    truth: Cells
    predictions: Cells
    shown: Bools
    pairs: Pairs
    iou: Floats
    of_cell: Floats
    of_prediction: Floats
    on_crowd: Floats

    @classmethod
    def of(cls, truth: Cells, predictions: Cells, min_score: float) -> _Table:
        pairs = whole_overlaps(truth, predictions)
        found_areas = predictions.areas
        of_cell = pairs.shared / truth.areas[pairs.truth]
        of_prediction = pairs.shared / found_areas[pairs.prediction]
        union = truth.areas[pairs.truth] + found_areas[pairs.prediction] - pairs.shared
        crowd = truth.crowd[pairs.truth]
        kept = Pairs(pairs.truth[~crowd], pairs.prediction[~crowd], pairs.shared[~crowd])
        on_crowd = np.bincount(pairs.prediction[crowd], of_prediction[crowd], len(predictions)).astype(np.float64)
        iou = (pairs.shared / union)[~crowd]
        shown, there = np.zeros(len(predictions), bool), np.flatnonzero(found_areas)
        shown[there] = ~hidden(predictions.pick(there).instances())
        shown &= predictions.scores >= min_score
        return cls(truth, predictions, shown, kept, iou, of_cell[~crowd], of_prediction[~crowd], on_crowd)

    @property
    def evidence(self) -> Floats:
        """(T,) float64, the best score of a prediction near each cell, of whatever class; 0 where there is none."""
        best = np.zeros(len(self.truth))
        near = self.iou >= NEAR
        np.maximum.at(best, self.pairs.truth[near], self.predictions.scores[self.pairs.prediction[near]])
        return best

    def merged(self) -> list[Contradiction]:
        """Cells in which several predictions lie, as sure as the second best of these."""
        pairs, scores = self.pairs, self.predictions.scores
        parts = self._shown() & (self.of_prediction >= INSIDE) & (self.of_cell >= SMALLEST_PART)
        found = []
        for cell, members in _groups(pairs.truth, parts, self.of_cell):
            numbers = pairs.prediction[members]
            best = numbers[np.argsort(-scores[numbers], kind="stable")]
            predicted = int(self.predictions.classes[best[0]])
            label = int(self.truth.classes[cell])
            second = float(scores[best[1]])
            found.append(Contradiction("merged", (cell,), tuple(best.tolist()), label, predicted, second))
        return found

    def split(self) -> list[Contradiction]:
        """Predictions that cover several cells."""
        pairs = self.pairs
        parts = self._shown() & (self.of_cell >= INSIDE) & (self.of_prediction >= SMALLEST_PART)
        found = []
        for number, members in _groups(pairs.prediction, parts, self.of_prediction):
            cells = pairs.truth[members[np.argsort(-self.of_prediction[members], kind="stable")]]
            label, predicted = int(self.truth.classes[cells[0]]), int(self.predictions.classes[number])
            score = float(self.predictions.scores[number])
            found.append(Contradiction("split", tuple(cells.tolist()), (number,), label, predicted, score))
        return found

    def wrong_classes(self) -> list[Contradiction]:
        """Cells that the model sees as another class, as sure as this class's score is above the labelled one's."""
        pairs, predictions = self.pairs, self.predictions
        same = self.truth.classes[pairs.truth] == predictions.classes[pairs.prediction]
        matched = self.iou >= MATCHED
        labelled = np.zeros(len(self.truth))
        agree = matched & same
        np.maximum.at(labelled, pairs.truth[agree], predictions.scores[pairs.prediction[agree]])
        wrong = np.flatnonzero(matched & ~same & self._shown())
        best_first = wrong[np.argsort(-predictions.scores[pairs.prediction[wrong]], kind="stable")]
        _, first = np.unique(pairs.truth[best_first], return_index=True)
        found = []
        for pair in best_first[first].tolist():
            cell, number = int(pairs.truth[pair]), int(pairs.prediction[pair])
            score = float(predictions.scores[number] - labelled[cell])
            if score > 0:
                classes = int(self.truth.classes[cell]), int(predictions.classes[number])
                found.append(Contradiction("wrong class", (cell,), (number,), *classes, score))
        return found

    def missing(self) -> list[Contradiction]:
        """Predictions of which no more than half lies on cells or crowds, and that are not a free cell's outline."""
        pairs, predictions = self.pairs, self.predictions
        covered = np.bincount(pairs.prediction, self.of_prediction, len(predictions)) + self.on_crowd
        near = (self.iou >= NEAR) & self._shown()
        matched = np.zeros(len(self.truth), bool)
        matched[pairs.truth[near & (self.iou >= MATCHED)]] = True
        outlines = np.zeros(len(predictions), bool)
        outlines[pairs.prediction[near & ~matched[pairs.truth]]] = True
        chosen = np.flatnonzero(self.shown & (covered < HALF) & ~outlines & (predictions.areas > 0))
        return [
            Contradiction(
                "missing", (), (number,), -1, int(predictions.classes[number]), float(predictions.scores[number])
            )
            for number in chosen.tolist()
        ]

    def spurious(self) -> list[Contradiction]:
        """Cells without a prediction, as sure as no prediction is near them."""
        evidence = self.evidence
        chosen = np.flatnonzero(~self.truth.crowd & (evidence < HALF))
        return [
            Contradiction("spurious", (cell,), (), int(self.truth.classes[cell]), -1, float(1 - evidence[cell]))
            for cell in chosen.tolist()
        ]

    def _shown(self) -> Bools:
        """(M,) bool, pairs of a prediction that is shown."""
        return self.shown[self.pairs.prediction]


def _groups(wholes: Ints, parts: Bools, shares: Floats) -> list[tuple[int, Ints]]:
    """Wholes with two parts or more that make half of them: number, and the numbers of the pairs."""
    chosen = np.flatnonzero(parts)
    numbers, counts = np.unique(wholes[chosen], return_counts=True)
    groups = [(number, chosen[wholes[chosen] == number]) for number in numbers[counts > 1].tolist()]
    return [(number, members) for number, members in groups if shares[members].sum() >= HALF]
