"""Stages overlap, keep their order and are bounded; what goes wrong in any of them comes out, and no thread stays."""

import itertools
import threading
from contextlib import closing

import numpy as np
import pytest
from ground_truth_model import BlobModel, GroundTruthModel

from cellseg_d2.config import get_cfg
from cellseg_d2.errors import CellSegError
from cellseg_d2.images.regions import WholeImage
from cellseg_d2.inference.predictor import WholeImagePredictor
from cellseg_d2.inference.stages import in_stages

SOON = 10
"""Seconds after which a test that waits for another thread gives up."""


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_results_are_those_of_a_loop(count, ahead):
    found = in_stages(range(count), lambda item: item * item, lambda item, square: (item, square + 1), ahead)
    assert list(found) == [(item, item * item + 1) for item in range(count)]


def test_each_stage_works_while_the_others_do():
    made, worked = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def items():
        for number in range(4):
            made[number].set()
            yield number

    def work(number):
        worked[number].set()
        assert made[min(number + 1, 3)].wait(SOON)  # made before this one is done
        return number

    def finish(number, _):
        assert worked[min(number + 1, 3)].wait(SOON)  # begun before this one is finished
        return number

    assert list(in_stages(items(), work, finish)) == list(range(4))


def test_no_more_is_made_than_is_asked_for():
    numbers = itertools.count()
    with closing(in_stages(numbers, lambda item: item, lambda item, _: item, ahead=3)) as found:
        assert [next(found) for _ in range(5)] == list(range(5))
    # five were given out, three wait to be finished, one is worked on, three are made
    assert next(numbers) <= 5 + 3 + 1 + 3


@pytest.mark.parametrize("error", [CellSegError("damaged"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["items", "work", "finish"])
def test_what_a_stage_raises_comes_out_after_the_results_before_it(stage, error):
    def fail(name, number):
        if name == stage and number == 5:
            raise error
        return number

    found = in_stages(
        (fail("items", number) for number in range(9)),
        lambda number: fail("work", number),
        lambda number, _: fail("finish", number),
        ahead=2,
    )
    given = []
    with pytest.raises(type(error)):
        given.extend(found)
    assert given == list(range(len(given))) and 3 <= len(given) <= 5


def test_a_caller_that_fails_leaves_no_thread():
    with pytest.raises(ZeroDivisionError), closing(in_stages(range(99), str, lambda item, _: item)) as found:
        next(found)
        raise ZeroDivisionError


def _predictor(model):
    keys = ["CELLSEG.CLASS_NAMES", "['a']", "CELLSEG.INFERENCE.TILE_SIZE", "64", "CELLSEG.INFERENCE.BATCH_SIZE", "2"]
    return WholeImagePredictor(model, get_cfg("mask_rcnn_lite0_FPN", keys))


def test_cells_are_those_of_tiles_one_by_one():
    rng = np.random.default_rng(3)
    image = np.kron(rng.integers(0, 2, (30, 40, 1), np.uint8) * 200, np.ones((9, 9, 3), np.uint8))
    predictor = _predictor(BlobModel())
    together = list(predictor.pieces(WholeImage(image)))
    one_by_one = [
        piece
        for batch in predictor._batches(WholeImage(image), predictor.tiles(WholeImage(image)))
        for piece in predictor._cells(batch, predictor._detect(batch, 1.0), image.shape[:2])
    ]
    assert sum(len(cells) for _, cells in together) > 100
    assert [tile for tile, _ in together] == [tile for tile, _ in one_by_one]
    for (_, ours), (_, theirs) in zip(together, one_by_one):
        for name in ("boxes", "scores", "classes", "origins"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert all(np.array_equal(mask, other) for mask, other in zip(ours.masks, theirs.masks, strict=True))


def test_an_interruption_inside_the_model_ends_the_prediction():
    class Interrupted(GroundTruthModel):
        def inference(self, inputs, do_postprocess):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().inference(inputs, do_postprocess)

    with pytest.raises(KeyboardInterrupt):
        _predictor(Interrupted()).predict(np.zeros((400, 400, 3), np.uint8))
