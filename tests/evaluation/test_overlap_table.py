"""Pairs of cells and predictions against masks that are compared one by one."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from drawing import drawn, label_maps, overlapping_masks, pycocotools_rle
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.rle import Runs, column_runs, without_gaps
from cellseg_d2.evaluation.overlap_table import Cells, flat_overlaps, whole_overlaps


def cells_of(masks, size, **columns):
    columns = {"classes": np.zeros(len(masks), int), **columns}
    return Cells.from_rles([pycocotools_rle(mask) for mask in masks], size, **columns)


def as_dict(pairs):
    return dict(zip(zip(pairs.truth.tolist(), pairs.prediction.tolist()), pairs.shared.tolist()))


def shared(first, second):
    counts = {(a, b): int((one & two).sum()) for a, one in enumerate(first) for b, two in enumerate(second)}
    return {pair: count for pair, count in counts.items() if count}


def flatten(masks, scores):
    """The masks in order of their scores, without pixels of better ones."""
    order = sorted(range(len(masks)), key=lambda number: -scores[number])
    taken, flat = np.zeros_like(masks[0]) if masks else None, []
    for number in order:
        flat.append(masks[number] & ~taken)
        taken |= masks[number]
    return order, flat


@st.composite
def scenes(draw):
    masks = draw(overlapping_masks(min_count=2))
    count = draw(st.integers(0, len(masks)))
    levels = st.sampled_from([0.1, 0.5, 0.5, 0.9])
    predictions = len(masks) - count
    scores = draw(st.lists(levels, min_size=predictions, max_size=predictions))
    crowd = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(0, 1), min_size=len(masks), max_size=len(masks)))
    return masks[:count], masks[count:], np.array(scores), np.array(crowd, bool), np.array(classes, int)


@drawn
@given(scenes())
def test_flattened_predictions_share_the_pixels_that_better_ones_left(scene):
    truth, found, scores, crowd, classes = scene
    size = (truth + found)[0].shape
    own, theirs = classes[: len(truth)], classes[len(truth) :]
    overlaps = flat_overlaps(
        cells_of(truth, size, classes=own, crowd=crowd), cells_of(found, size, classes=theirs, scores=scores)
    )
    order, flat = flatten(found, scores)
    left = [mask for mask in flat if mask.any()]
    kinds = np.array([theirs[number] for number, mask in zip(order, flat) if mask.any()], int)
    cells = [mask for mask, region in zip(truth, crowd) if not region]
    assert as_dict(overlaps.pairs) == shared(cells, left)
    assert overlaps.areas.tolist() == [mask.sum() for mask in left]
    assert overlaps.classes.tolist() == kinds.tolist()
    assert overlaps.truth_areas.tolist() == [mask.sum() for mask in cells]
    assert overlaps.truth_classes.tolist() == own[~crowd].tolist()
    assert overlaps.hidden == len(flat) - len(left)

    def region(of):
        union = np.zeros(size, bool)
        for inside in (True, False):
            for mask, number, is_crowd in zip(truth, own, crowd):
                if is_crowd == inside and of in (None, number):
                    union[mask] = inside
        return union

    assert overlaps.on_any_crowd.tolist() == [(mask & region(None)).sum() for mask in left]
    assert overlaps.on_crowd.tolist() == [(mask & region(number)).sum() for mask, number in zip(left, kinds)]


@drawn
@given(scenes())
def test_whole_predictions_share_all_of_their_pixels_with_cells_that_overlap(scene):
    truth, found, scores, crowd, _ = scene
    size = (truth + found)[0].shape
    pairs = whole_overlaps(cells_of(truth, size, crowd=crowd), cells_of(found, size, scores=scores))
    assert as_dict(pairs) == shared(truth, found)


@drawn
@given(scenes())
def test_pixels_that_nothing_covers_may_be_left_out(scene):
    truth, found, scores, crowd, classes = scene
    size = (truth + found)[0].shape
    cells = cells_of(truth, size, classes=classes[: len(truth)], crowd=crowd)
    predictions = cells_of(found, size, classes=classes[len(truth) :], scores=scores)
    compact = [
        replace(own, runs=runs) for own, runs in zip((cells, predictions), without_gaps(cells.runs, predictions.runs))
    ]
    covered = np.any(truth + found, axis=0)
    assert compact[0].runs.size == (covered.sum(), 1)
    for overlaps in (flat_overlaps, whole_overlaps):
        assert repr(overlaps(*compact)) == repr(overlaps(cells, predictions))


def test_an_image_of_any_size_needs_memory_for_its_cells_alone():
    size, edges = (60_000, 60_000), [[0, 7], [60_000**2 - 5, 60_000**2], [60_000 * 9, 60_000 * 9 + 3]]
    starts, stops = np.array(edges, np.int64).T
    cells = Cells.from_rles(Runs(np.arange(3), starts, stops, size, 3).rles(), size, classes=[0, 0, 1])
    tracemalloc.start()
    try:
        assert as_dict(whole_overlaps(cells, cells)) == {(0, 0): 7, (1, 1): 5, (2, 2): 3}
        assert as_dict(flat_overlaps(cells, cells).pairs) == {(0, 0): 7, (1, 1): 5, (2, 2): 3}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@drawn
@given(label_maps(shape=(9, 11)), label_maps(shape=(9, 11)))
def test_label_maps_of_any_ids_give_what_their_rles_give(first, second):
    encoded = [column_runs(label_map) for label_map in (first, second)]
    kinds = [np.arange(len(ids)) % 3 for ids, _ in encoded]
    direct = [Cells.from_label_map(one, classes) for one, classes in zip((first, second), kinds)]
    by_rle = [Cells.from_rles(runs.rles(), first.shape, classes) for (_, runs), classes in zip(encoded, kinds)]
    ours, theirs = flat_overlaps(*direct), flat_overlaps(*by_rle)
    assert as_dict(ours.pairs) == as_dict(theirs.pairs) == as_dict(whole_overlaps(*direct))
    masks = [[label_map == number for number in ids] for label_map, (ids, _) in zip((first, second), encoded)]
    assert as_dict(ours.pairs) == shared(*masks)


@drawn
@given(scenes(), st.sampled_from([0.5, 0.6]))
def test_a_threshold_leaves_the_pixels_of_what_it_keeps(scene, threshold):
    _, found, scores, _, _ = scene
    if not found:
        return
    size = found[0].shape
    predictions = cells_of(found, size, scores=scores)
    kept = predictions.pick(np.flatnonzero(predictions.scores >= threshold))
    none = cells_of([], size)
    every, some = flat_overlaps(none, predictions).areas, flat_overlaps(none, kept).areas
    assert every[: len(some)].tolist() == some.tolist()


def test_picked_cells_come_in_the_order_asked_for():
    label_map = np.array([[1, 1, 0, 2], [3, 0, 0, 2], [3, 3, 0, 2]])
    cells = Cells.from_label_map(label_map, [5, 6, 7], [0.1, 0.3, 0.2])
    picked = cells.pick(np.array([2, 0]))
    assert (picked.areas.tolist(), picked.classes.tolist()) == ([3, 2], [7, 5])
    assert cells.ranking().tolist() == [1, 2, 0]


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="there are 2 cells"):
        Cells.from_label_map(np.array([[1, 2]]), [0])
