"""Metrics of cells against torchmetrics, stardist, faster-coco-eval and plain loops, and on cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from drawing import discs, pycocotools_rle
from faster_coco_eval import COCO, COCOeval_faster
from scipy.optimize import linear_sum_assignment
from stardist.matching import matching_dataset
from torchmetrics.detection import PanopticQuality

from cellseg_d2.evaluation.cell_metrics import ACCURACY_NAMES, F1_NAMES, Cells, flat_overlaps, summarise, tally
from cellseg_d2.evaluation.tally import IOU_THRESHOLDS

K = 3
NAMES = ["A", "B", "C"]


def draw_images(seed, count=3):
    """(truth map, its classes, prediction map, its classes); cells are moved, split, lost, made up and renamed."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth = discs(rng, 48, 52, int(rng.integers(0, 20)))
        found = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        for number in np.unique(found[found > 0]):
            found[found == number] = number * (rng.random() > 0.2)
        found[:, 26:][found[:, 26:] > 0] += 100
        extra = discs(rng, 48, 52, int(rng.integers(0, 4)))
        found = np.where((extra > 0) & (found == 0), extra + 200, found)
        classes = rng.integers(0, K, 400)
        ids, found_ids = np.unique(truth[truth > 0]), np.unique(found[found > 0])
        renamed = np.where(
            rng.random(len(found_ids)) < 0.85, classes[found_ids % 100], rng.integers(0, K, len(found_ids))
        )
        images.append((truth, classes[ids], found, renamed))
    return images


def tally_of(truth, truth_classes, found, classes, crowd=None, scores=None):
    cells = Cells.from_label_map(truth, truth_classes, crowd=crowd)
    return tally(flat_overlaps(cells, Cells.from_label_map(found, classes, scores)), K)


def measure(images):
    return summarise([tally_of(*image) for image in images], NAMES)


def masks_of(label_map):
    return [label_map == number for number in np.unique(label_map[label_map > 0])]


def iou_table(truth, found):
    table = [[(one & two).sum() / (one | two).sum() for two in found] for one in truth]
    return np.array(table, float).reshape(len(truth), len(found))


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_quality_equals_torchmetrics(seed):
    images = draw_images(seed)
    reference = PanopticQuality({0, 1, 2}, {9}, return_sq_and_rq=True, return_per_class=True)
    for truth, truth_classes, found, classes in images:
        pictures = []
        for label_map, own in ((found, classes), (truth, truth_classes)):
            picture = np.zeros((*label_map.shape, 2), int)
            picture[..., 0] = 9  # background as stuff
            for number, kind in zip(np.unique(label_map[label_map > 0]), own):
                picture[label_map == number] = (kind, number)
            pictures.append(torch.from_numpy(picture)[None])
        reference.update(*pictures)
    metrics = measure(images)
    expected = 100 * reference.compute().reshape(-1, 3)[:K].numpy()
    rows = [[metrics.classes[name][key] for key in ("PQ", "SQ", "DQ")] for name in NAMES]
    present = ~np.isnan([row[0] for row in rows])
    assert np.nan_to_num(rows)[present] == pytest.approx(expected[present], abs=1e-4)
    assert metrics.summary["mPQ+"] == pytest.approx(expected[present, 0].mean(), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_f1_accuracy_and_the_parts_of_pq_equal_stardists_matching(seed):
    images = draw_images(seed)
    metrics = measure(images)
    for number, name in enumerate(NAMES):
        maps = [
            (only(truth, truth_classes == number), only(found, classes == number))
            for truth, truth_classes, found, classes in images
        ]
        reference = matching_dataset(*zip(*maps), thresh=IOU_THRESHOLDS, show_progress=False)
        own = metrics.classes[name]
        if reference[0].n_true + reference[0].n_pred == 0:
            assert math.isnan(own["F1"])
            continue
        assert [own[metric] for metric in F1_NAMES] == pytest.approx([100 * one.f1 for one in reference])
        assert [own[metric] for metric in ACCURACY_NAMES] == pytest.approx([100 * one.accuracy for one in reference])
        half = reference[0]
        assert [own[key] for key in ("hit", "spurious", "missed")] == [half.tp, half.fp, half.fn]
        strictly = matching_dataset(*zip(*maps), thresh=0.5 + 1e-6, show_progress=False)  # PQ wants more than a half
        assert own["PQ"] == pytest.approx(100 * strictly.panoptic_quality, abs=1e-4)
        assert own["SQ"] == pytest.approx(100 * strictly.mean_matched_score if strictly.tp else math.nan, nan_ok=True)


def only(label_map, chosen):
    """A label map with the cells that are chosen, of those in ascending order of ids."""
    return label_map * np.isin(label_map, np.unique(label_map[label_map > 0])[chosen])


@pytest.mark.parametrize("seed", range(8))
def test_f1_is_that_of_the_assignment_on_all_masks(seed):
    images = draw_images(seed)
    metrics = measure(images)
    for number, name in enumerate(NAMES):
        for threshold, metric in zip(IOU_THRESHOLDS, F1_NAMES):
            hit = cells = predictions = 0
            for truth, truth_classes, found, classes in images:
                one = [mask for mask, kind in zip(masks_of(truth), truth_classes) if kind == number]
                two = [mask for mask, kind in zip(masks_of(found), classes) if kind == number]
                fits = iou_table(one, two) >= threshold
                hit += fits[linear_sum_assignment(-fits.astype(int))].sum()
                cells, predictions = cells + len(one), predictions + len(two)
            expected = 200 * hit / (cells + predictions) if cells + predictions else math.nan
            assert metrics.classes[name][metric] == pytest.approx(expected, nan_ok=True)
        assert metrics.classes[name]["cells"] == cells
        assert metrics.classes[name]["predictions"] == predictions


@pytest.mark.parametrize("seed", range(8))
def test_at_each_iou_as_many_are_hit_as_faster_coco_eval_recalls(seed):
    """Nothing overlaps here, so that flattening changes nothing."""
    images = draw_images(seed)
    annotations, results = [], []
    for number, (truth, truth_classes, found, classes) in enumerate(images, start=1):
        for mask, kind in zip(masks_of(truth), truth_classes.tolist()):
            rle = pycocotools_rle(mask)
            own = {"image_id": number, "category_id": kind + 1, "segmentation": rle, "area": int(mask.sum())}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, "bbox": [0, 0, 1, 1], **own})
        for mask, kind in zip(masks_of(found), classes.tolist()):
            rle = pycocotools_rle(mask)
            results.append({"image_id": number, "category_id": kind + 1, "segmentation": rle, "score": 0.5})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number, "height": 48, "width": 52} for number in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }
    truth.createIndex()
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "segm", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"][:, :, 0, -1]  # (IoU, class)
    metrics = measure(images)
    for number, name in enumerate(NAMES):
        own = metrics.classes[name]
        if own["cells"]:
            expected = 200 * recall[:, number] * own["cells"] / (own["cells"] + own["predictions"])
            assert [own[metric] for metric in F1_NAMES] == pytest.approx(expected)


def plain_aji(truth, found, one_to_one):
    """Straight from the papers."""
    one, two = masks_of(truth), masks_of(found)
    if not one and not two:
        return math.nan
    table = iou_table(one, two)
    if one_to_one:
        pairs = [pair for pair in zip(*linear_sum_assignment(-table)) if table[pair]]
    else:
        pairs = [(cell, int(np.argmax(row))) for cell, row in enumerate(table) if row.any()]
    cells, predictions = {cell for cell, _ in pairs}, {prediction for _, prediction in pairs}
    union = sum((one[cell] | two[prediction]).sum() for cell, prediction in pairs)
    union += sum(mask.sum() for number, mask in enumerate(one) if number not in cells)
    union += sum(mask.sum() for number, mask in enumerate(two) if number not in predictions)
    return sum((one[cell] & two[prediction]).sum() for cell, prediction in pairs) / union


@pytest.mark.parametrize("seed", range(12))
def test_aji_and_aji_plus_are_those_of_the_papers(seed):
    for image in draw_images(seed):
        own = tally_of(*image)
        assert own.aji == pytest.approx(plain_aji(image[0], image[2], one_to_one=False), nan_ok=True)
        assert own.aji_plus == pytest.approx(plain_aji(image[0], image[2], one_to_one=True), nan_ok=True)


@pytest.mark.parametrize("seed", range(8))
def test_the_confusion_holds_every_cell_and_every_prediction_once(seed):
    images = draw_images(seed)
    metrics = measure(images)
    expected = np.zeros((K + 1, K + 1), int)
    for truth, truth_classes, found, classes in images:
        table = iou_table(masks_of(truth), masks_of(found))
        fits = table >= 0.5
        pairs = [pair for pair in zip(*linear_sum_assignment(-(fits * (1 + table / 1000)))) if fits[pair]]
        rows, columns = list(truth_classes), list(classes)
        for cell, prediction in pairs:
            expected[rows[cell], columns[prediction]] += 1
        for cell in set(range(len(rows))) - {cell for cell, _ in pairs}:
            expected[rows[cell], K] += 1
        for prediction in set(range(len(columns))) - {prediction for _, prediction in pairs}:
            expected[K, columns[prediction]] += 1
    assert metrics.confusion.tolist() == expected.tolist()
    hit, spurious, missed = expected[:K, :K].sum(), expected[K].sum(), expected[:, K].sum()
    assert metrics.summary["detection_F1"] == pytest.approx(200 * hit / (2 * hit + spurious + missed))
    assert metrics.summary["classification_accuracy"] == pytest.approx(100 * np.trace(expected[:K, :K]) / hit)
    assert metrics.summary["cells"] == hit + missed


@pytest.mark.parametrize("seed", range(4))
def test_the_averages_over_images(seed):
    """Of each image and class that has cells: over classes, over images, and over tissues."""
    images = draw_images(seed, count=4)
    tallies = [tally_of(*image) for image in images]
    per_image = []
    for image, own in zip(images, tallies):
        quality = [own.panoptic.pq[kind] for kind in np.unique(image[1])]
        per_image.append(np.mean(quality) if quality else math.nan)
    metrics = summarise(tallies, NAMES, ["lung", "lung", "lung", "liver"]).summary
    assert metrics["PQ_monusac"] == pytest.approx(100 * np.nanmean(per_image))
    assert metrics["mPQ_pannuke"] == pytest.approx(100 * np.nanmean([np.nanmean(per_image[:3]), per_image[3]]))
    plain = summarise(tallies, NAMES).summary
    assert plain["mPQ_pannuke"] == pytest.approx(plain["PQ_monusac"])
    binary = [one_image(truth, found) for truth, _, found, _ in images if truth.any()]
    assert plain["bPQ_pannuke"] == pytest.approx(np.mean([own.summary["mPQ+"] for own in binary]))


# By hand

EMPTY = np.zeros((4, 6), int)
CELL = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def classes_of(label_map, kind=0):
    return np.full(len(np.unique(label_map[label_map > 0])), kind)


def one_image(truth, found, kind=0, found_kind=0, **options):
    own = tally_of(truth, classes_of(truth, kind), found, classes_of(found, found_kind), **options)
    return summarise([own], NAMES)


def test_nothing_on_both_sides_is_no_number():
    metrics = one_image(EMPTY, EMPTY)
    for name in ("mPQ+", "PQ_monusac", "mPQ_pannuke", "AJI", "AJI+", "F1", "detection_F1"):
        assert math.isnan(metrics.summary[name])
    assert metrics.confusion.sum() == metrics.counts.sum() == 0


@pytest.mark.parametrize("sides", [(CELL, EMPTY), (EMPTY, CELL)], ids=["ground truth only", "prediction only"])
def test_one_side_alone_scores_0(sides):
    metrics = one_image(*sides)
    for name in ("mPQ+", "DQ", "AJI", "AJI+", "F1", "detection_F1"):
        assert metrics.summary[name] == 0
    assert math.isnan(metrics.summary["SQ"])
    missed = sides[0] is CELL
    assert metrics.confusion[0, K] == missed and metrics.confusion[K, 0] == (not missed)
    assert metrics.counts[0, 0].tolist() == [0, int(not missed), int(missed)]
    # the averages over images do not see predictions where the ground truth has none
    assert metrics.summary["PQ_monusac"] == 0 if missed else math.isnan(metrics.summary["PQ_monusac"])


def test_a_class_of_neither_side_is_left_out_and_one_of_predictions_alone_is_not():
    metrics = one_image(CELL, CELL)
    assert metrics.summary["mPQ+"] == metrics.classes["A"]["PQ"] == 100
    assert math.isnan(metrics.classes["B"]["PQ"])
    wrong = one_image(CELL, CELL, found_kind=1)
    assert wrong.summary["mPQ+"] == wrong.classes["A"]["PQ"] == wrong.classes["B"]["PQ"] == 0
    assert wrong.summary["detection_F1"] == wrong.summary["AJI"] == 100
    assert wrong.summary["classification_accuracy"] == 0
    assert wrong.confusion[0, 1] == 1


def test_an_iou_of_just_a_half_is_a_match_for_f1_and_none_for_pq():
    metrics = one_image(CELL, np.where(np.arange(6) < 1, CELL, 0))
    assert metrics.summary["F1@0.50"] == metrics.summary["detection_F1"] == 100
    assert metrics.summary["F1@0.55"] == metrics.summary["mPQ+"] == 0
    assert metrics.summary["AJI"] == 50


def test_of_two_halves_of_a_cell_one_matches():
    halves = CELL * np.array([1, 2, 1, 1, 1, 1])
    metrics = one_image(CELL, halves)
    assert metrics.counts[0, 0].tolist() == [1, 1, 0]
    assert metrics.summary["AJI"] == metrics.summary["AJI+"] == pytest.approx(100 * 2 / (4 + 2))


def test_a_prediction_over_two_cells_is_used_twice_by_aji_and_once_by_aji_plus():
    cells = np.array([[1, 1, 2, 2, 0, 0]] * 4)
    metrics = one_image(cells, (cells > 0).astype(int))
    assert metrics.summary["AJI"] == pytest.approx(100 * (8 + 8) / (16 + 16))
    assert metrics.summary["AJI+"] == pytest.approx(100 * 8 / (16 + 8))


@pytest.mark.parametrize("number", [1, 65_535, 65_536, 2**31 - 1])
def test_cells_of_one_pixel_and_of_large_ids(number):
    truth = np.zeros((3, 3), np.int32)
    truth[1, 2], truth[0, 0] = number, 1 if number > 1 else 7
    metrics = one_image(truth, truth)
    assert metrics.summary["mPQ+"] == metrics.summary["AJI+"] == metrics.summary["F1@0.95"] == 100
    assert metrics.summary["cells"] == 2
    assert one_image(truth, np.roll(truth, 1, 0)).summary["AJI"] == 0


def test_more_cells_than_16_bits_can_count():
    truth = np.arange(1, 70_001, dtype=np.int32).reshape(700, 100)
    metrics = one_image(truth, truth[::-1].copy())
    assert metrics.summary["cells"] == metrics.classes["A"]["hit"] == 70_000


@pytest.mark.parametrize("scores", [[0.5, 0.5], [0.5, 0.6], [0.6, 0.5]])
def test_overlapping_predictions_are_flattened_and_the_earlier_of_equal_ones_stays_whole(scores):
    masks = (CELL > 0, np.roll(CELL > 0, 1, 1))
    found = Cells.from_rles([pycocotools_rle(mask) for mask in masks], CELL.shape, [0, 0], scores)
    overlaps = flat_overlaps(Cells.from_label_map(CELL, [0]), found)
    assert overlaps.areas.tolist() == [4, 2]  # the best first
    assert overlaps.pairs.shared.tolist() == ([2, 2] if scores[1] > scores[0] else [4])


def test_a_prediction_under_a_better_one_is_hidden():
    rle = pycocotools_rle(CELL > 0)
    found = Cells.from_rles([rle, rle], CELL.shape, [1, 0], [0.8, 0.9])
    metrics = summarise([tally(flat_overlaps(Cells.from_label_map(CELL, [0]), found), K)], NAMES)
    assert metrics.summary["hidden"] == metrics.summary["predictions"] == 1
    assert metrics.summary["mPQ+"] == 100


# Crowds: a cell of 2 x 2, and a crowd on the right half

CROWDED = np.array([[1, 1, 0, 9, 9, 9], [1, 1, 0, 9, 9, 9], [0, 0, 0, 9, 9, 9], [0, 0, 0, 9, 9, 9]])
CROWD = {"crowd": [False, True]}
SCORES = ("mPQ+", "AJI", "AJI+", "F1", "detection_F1", "classification_accuracy", "bPQ_pannuke")


def test_a_crowd_that_nothing_lies_on_changes_nothing():
    metrics = one_image(CROWDED, CELL, **CROWD)
    assert [metrics.summary[name] for name in SCORES] == [100] * len(SCORES)
    assert metrics.summary["cells"] == 1


@pytest.mark.parametrize("columns", [slice(3, 6), slice(2, 5)], ids=["all of it", "two thirds"])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_prediction_that_lies_mostly_on_a_crowd_is_left_out(columns, kind):
    found = CELL.copy()
    found[:, columns] = 2
    own = tally_of(CROWDED, [0, kind], found, [0, kind], **CROWD)
    metrics = summarise([own], NAMES)
    assert [metrics.summary[name] for name in SCORES] == [100] * len(SCORES)
    assert metrics.summary["predictions"] == metrics.confusion.sum() == 1


def test_a_prediction_that_lies_half_on_a_crowd_is_spurious():
    found = CELL.copy()
    found[2:, 2:4] = 2
    metrics = one_image(CROWDED, found, **CROWD)
    assert metrics.classes["A"]["spurious"] == 1
    assert metrics.summary["AJI"] == pytest.approx(100 * 4 / (4 + 2))  # its pixels on the crowd do not count


def test_a_crowd_of_another_class_does_not_excuse_a_class_but_a_detection():
    found = CELL.copy()
    found[:, 3:] = 2
    metrics = summarise([tally_of(CROWDED, [0, 1], found, [0, 2], **CROWD)], NAMES)
    assert metrics.classes["C"]["spurious"] == 1
    assert metrics.classes["C"]["PQ"] == 0
    assert metrics.summary["detection_F1"] == metrics.summary["AJI"] == 100
    assert metrics.confusion[K].sum() == 0


def test_pixels_on_a_crowd_take_nothing_from_a_match():
    truth = np.array([[1, 1, 9, 9]])
    metrics = one_image(truth, np.array([[1, 1, 1, 0]]), **CROWD)
    assert metrics.summary["mPQ+"] == metrics.summary["AJI"] == metrics.summary["F1@0.95"] == 100


def test_only_crowds_are_no_cells():
    metrics = one_image(np.where(CROWDED == 9, 9, 0), np.where(CROWDED == 9, 9, 0), crowd=[True])
    assert metrics.summary["cells"] == metrics.summary["predictions"] == 0
    assert all(math.isnan(metrics.summary[name]) for name in ("mPQ+", "AJI", "F1", "detection_F1"))
