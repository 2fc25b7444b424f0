"""Merging several passes' instances: clusters worked out by hand, what holds for any, and files that do not fit."""

import itertools
import json

import numpy as np
import pytest
from drawing import discs, drawn, overlapping_masks, pycocotools_rle
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.coco import annotate, dataset, to_results
from cellseg_d2.cells.instances import CellInstances
from cellseg_d2.cells.label_maps import LabelMap
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import average_precision
from cellseg_d2.inference.merge import MergeCounts, merge, merge_files


def _cells(*found, shape=(2, 40)):
    """Cells of (mask, score) or (mask, score, class)."""
    masks = [mask for mask, *_ in found]
    scores = np.array([score for _, score, *_ in found], np.float32)
    classes = np.array([kind[0] if kind else 0 for _, _, *kind in found], np.int64)
    full = masks[0].shape if masks else shape
    rles = [pycocotools_rle(mask) for mask in masks]
    return CellInstances.from_rles(rles, classes, full, scores)


def _bar(start, stop, length=40):
    mask = np.zeros((2, length), bool)
    mask[:, start:stop] = True
    return mask


def _spans(cells):
    """(first column, end, class, score) of each bar, in the order given."""
    return [
        (int(x0), int(x1), int(kind), pytest.approx(float(score), abs=1e-6))
        for (x0, _, x1, _), kind, score in zip(cells.mask_boxes, cells.classes, cells.scores)
    ]


def _contents(cells):
    """What the cells are, whatever their order."""
    boxes = np.concatenate([cells.mask_boxes, cells.boxes.astype(np.float64).round(4)], axis=1)
    rows = zip(cells.scores.tolist(), cells.classes.tolist(), boxes.tolist(), cells.masks)
    return sorted((round(score, 6), kind, box, mask.tobytes()) for score, kind, box, mask in rows)


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


def _full(cells):
    frames = np.zeros((len(cells), *cells.image_size), bool)
    for frame, mask, (x, y) in zip(frames, cells.masks, cells.origins):
        frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return frames


@st.composite
def several_passes(draw, count=None):
    """Passes that show the same few masks, with scores and classes that are often the same as well."""
    masks = draw(overlapping_masks(max_side=6, min_count=1))
    places, scores = st.sampled_from(range(len(masks))), st.sampled_from([0.25, 0.5, 0.75])
    kinds = st.tuples(places, scores, st.integers(0, 1))
    number = draw(st.integers(1, 3)) if count is None else count
    found = [draw(st.lists(kinds, max_size=5)) for _ in range(number)]
    return [_cells(*((masks[m], s, k) for m, s, k in own), shape=masks[0].shape) for own in found]


def test_what_both_show_becomes_one_and_what_one_shows_loses():
    first = _cells((_bar(0, 10), 0.8), (_bar(30, 36), 0.4))
    second = _cells((_bar(1, 10), 0.6), (_bar(20, 28), 0.5))
    assert _spans(merge([first, second])) == [(0, 10, 0, 0.7), (20, 28, 0, 0.25), (30, 36, 0, 0.2)]
    halved = merge([first, second], weights=[1, 0.5])
    assert _spans(halved) == [(0, 10, 0, 1.1 / 1.5), (30, 36, 0, 0.4 / 1.5), (20, 28, 0, 0.25 / 1.5)]


def test_the_mask_is_of_the_member_that_scores_best_with_its_weight():
    first, second = _cells((_bar(0, 10), 0.8)), _cells((_bar(1, 10), 0.6))
    assert _spans(merge([first, second], weights=[1, 2])) == [(1, 10, 0, 2.0 / 3)]


def test_of_three_masks_none_of_which_has_half_of_the_votes_the_pixels_are_voted_on():
    passes = [_cells((_bar(0, 10), 0.4)), _cells((_bar(2, 12), 0.35)), _cells((_bar(3, 13), 0.3))]
    assert _spans(merge(passes)) == [(2, 12, 0, 0.35)]
    passes[0] = passes[0].with_scores(np.array([0.7]))
    assert _spans(merge(passes)) == [(0, 10, 0, 1.35 / 3)]


def test_pixels_that_too_few_show_leave_the_best_mask():
    """Each of the four others overlaps the best one, elsewhere."""
    others = [_cells((_bar(4 * number, 4 * number + 4), 0.5)) for number in range(4)]
    merged = merge([_cells((_bar(0, 16), 0.6)), *others], iou=0.2)
    assert _spans(merged) == [(0, 16, 0, 2.6 / 5)]


def test_the_box_is_the_mean_by_votes():
    first, second = _cells((_bar(0, 10), 0.75)), _cells((_bar(1, 10), 0.25))
    assert merge([first, second]).boxes.tolist() == [[0.25, 0, 10, 2]]
    assert merge([first, second], weights=[1, 3]).boxes.tolist() == [[0.5, 0, 10, 2]]
    nothing = first.with_scores(np.zeros(1)), second.with_scores(np.zeros(1))
    assert merge(nothing).boxes.tolist() == [[0.5, 0, 10, 2]]


def test_a_mask_takes_of_each_other_pass_the_one_that_it_overlaps_most():
    first = _cells((_bar(0, 12), 0.9))
    second = _cells((_bar(3, 12), 0.8), (_bar(0, 11), 0.4))  # IoU 0.75 and 0.92
    assert _spans(merge([first, second])) == [(0, 12, 0, 0.65), (3, 12, 0, 0.4)]


def test_instances_of_one_pass_never_join():
    first = _cells((_bar(0, 10), 0.9), (_bar(0, 10), 0.5))
    second = _cells((_bar(0, 10), 0.7))
    assert _spans(merge([first, second])) == [(0, 10, 0, 0.8), (0, 10, 0, 0.25)]
    assert _spans(merge([first])) == [(0, 10, 0, 0.9), (0, 10, 0, 0.5)]


def test_touching_cells_do_not_join():
    """Two triangles of one square: their boxes are the same, their masks share the diagonal."""
    lower = np.tri(12, dtype=bool)
    assert len(merge([_cells((lower, 0.9)), _cells((lower.T, 0.9))])) == 2


def test_an_iou_at_the_threshold_does_not_join():
    first, second = _cells((_bar(0, 10), 0.9)), _cells((_bar(0, 5), 0.8))
    assert len(merge([first, second], iou=0.5)) == 2
    assert len(merge([first, second], iou=0.49)) == 1


def test_classes_stay_apart_or_vote():
    passes = [_cells((_bar(0, 10), 0.9, 0)), _cells((_bar(0, 9), 0.6, 1)), _cells((_bar(1, 10), 0.5, 1))]
    assert _spans(merge(passes)) == [(0, 9, 1, 1.1 / 3), (0, 10, 0, 0.3)]
    assert _spans(merge(passes, class_agnostic=True)) == [(0, 10, 1, 1.1 / 3)]
    even = [_cells((_bar(0, 10), 0.5, kind)) for kind in (1, 0)]
    assert _spans(merge(even, class_agnostic=True)) == [(0, 10, 0, 0.25)]


def test_nothing_found():
    nothing = CellInstances.empty((2, 40))
    assert len(merge([nothing, nothing])) == 0
    assert _spans(merge([nothing, _cells((_bar(0, 3), 0.5))])) == [(0, 3, 0, 0.25)]
    with pytest.raises(ValueError, match="sizes"):
        merge([nothing, CellInstances.empty((3, 40))])


@drawn
@given(several_passes(count=1), st.booleans(), st.sampled_from([[1, 1], [0.3, 0.7], [2, 5]]))
def test_a_pass_merged_with_itself_stays_as_it_is(passes, class_agnostic, weights):
    merged = merge(passes * 2, weights=weights, class_agnostic=class_agnostic)
    assert _contents(merged) == _contents(passes[0])


@drawn
@given(several_passes(), st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.booleans())
def test_the_order_of_the_passes_changes_nothing(passes, class_agnostic, iou, equal):
    weights = [1.0 if equal else 1.0 + number for number in range(len(passes))]
    merged = merge(passes, weights=weights, iou=iou, class_agnostic=class_agnostic)
    for order in itertools.permutations(range(len(passes))):
        other = merge(
            [passes[n] for n in order], weights=[weights[n] for n in order], iou=iou, class_agnostic=class_agnostic
        )
        assert _contents(other) == _contents(merged)
        assert other.scores.tolist() == sorted(other.scores.tolist(), reverse=True)


def _by_the_book(passes, weights, iou):
    """The same, cell by cell over full frames: (score, class, mask) of each cluster. Scores must all differ."""
    total = sum(weights)
    free = [
        (weights[source] * score / total, source, kind, frame)
        for source, own in enumerate(passes)
        for score, kind, frame in zip(own.scores.tolist(), own.classes.tolist(), _full(own))
    ]
    free.sort(key=lambda item: -item[0])
    clusters = []
    while free:
        best = free.pop(0)
        cluster = [best]
        for other in set(range(len(passes))) - {best[1]}:
            near = [item for item in free if item[1:3] == (other, best[2]) and _iou(item[3], best[3]) > iou]
            if near:
                cluster.append(max(near, key=lambda item: _iou(item[3], best[3])))
                free = [item for item in free if item is not cluster[-1]]
        score = sum(vote for vote, *_ in cluster)
        mask = sum(vote * frame for vote, _, _, frame in cluster) >= score / 2
        if best[0] >= score / 2 or not mask.any():
            mask = best[3]
        clusters.append((round(score, 5), best[2], mask.tobytes()))
    return sorted(clusters)


@drawn
@given(several_passes(count=3), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.integers(0, 99))
def test_clusters_are_those_of_the_rule_written_down_cell_by_cell(passes, iou, seed):
    scores = np.random.default_rng(seed).permutation(sum(map(len, passes))) / 64 + 1 / 64
    bounds = np.cumsum([len(own) for own in passes])[:-1]
    passes = [own.with_scores(part) for own, part in zip(passes, np.split(scores, bounds))]
    weights = [1.0, 0.71, 0.39]  # no two votes are the same
    merged = merge(passes, weights=weights, iou=iou)
    found = zip(merged.scores.tolist(), merged.classes.tolist(), _full(merged))
    assert sorted((round(score, 5), kind, frame.tobytes()) for score, kind, frame in found) == _by_the_book(
        passes, weights, iou
    )


def test_two_passes_that_each_miss_and_invent_cells_score_better_together():
    """What is invented differs from pass to pass, what is found does not."""
    truth, results = [], {name: [] for name in ("first", "second", "merged")}
    images = [{"id": number, "file_name": f"{number}.png", "height": 96, "width": 96} for number in range(4)]
    for image in images:
        rng = np.random.default_rng(image["id"])
        annotations = annotate([LabelMap((1,), discs(rng, 96, 96, 25))], (0, 0, 96, 96))
        truth.append(annotations)
        passes = []
        for _ in range(2):
            seen = [annotation["segmentation"] for annotation in annotations if rng.random() < 0.8]
            invented = annotate([LabelMap((1,), discs(rng, 96, 96, 12))], (0, 0, 96, 96))
            rles = seen + [annotation["segmentation"] for annotation in invented]
            scores = rng.uniform(0.2, 0.9, len(rles)).astype(np.float32)
            passes.append(CellInstances.from_rles(rles, [0] * len(rles), (96, 96), scores))
        for name, cells in zip(results, (*passes, merge(passes))):
            results[name] += to_results(cells, image["id"])
    content = dataset(images, truth, ["cell"])
    first, second, merged = (average_precision(content, own, "segm", 1000)["AP50"] for own in results.values())
    assert merged > max(first, second) + 5


def _result(mask, score=0.5, image=1, category=1, **changes):
    x0, y0, x1, y1 = _cells((mask, score)).mask_boxes[0].tolist()
    box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
    result = {"image_id": image, "category_id": category, "bbox": box, "score": score}
    return {**result, "segmentation": pycocotools_rle(mask), **changes}


def _write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_files_are_merged_image_by_image(tmp_path, caplog):
    a, b = _bar(0, 10), _bar(20, 30)
    first = [_result(a, 0.8), _result(b, 0.6, image=7, category=90), _result(a, 0.3, image=3)]
    second = [_result(b, 0.4, image=7, category=90), _result(a, 0.6), _result(b, 0.7)]
    second[0]["bbox"], second[1]["bbox"] = [22, 0, 6, 2], [1, 0, 10, 2]
    del second[2]["bbox"]  # not needed: it is that of the mask
    paths = [_write(tmp_path / "a.json", first), _write(tmp_path / "b.json", second)]
    output = tmp_path / "new" / "merged.json"
    assert merge_files(paths, output, score_threshold=0.2) == MergeCounts(3, (3, 3), 3)
    expected = [_result(a, 0.7), _result(b, 0.35), _result(b, 0.5, image=7, category=90)]
    expected[0]["bbox"], expected[2]["bbox"] = [0.43, 0, 10, 2], [20.8, 0, 8.4, 2]
    assert json.loads(output.read_text()) == expected
    assert [path.name for path in output.parent.iterdir()] == ["merged.json"]
    (message,) = caplog.messages
    assert message.startswith(f"{paths[1]}: has nothing for 1 of 3 images")


def test_the_output_may_take_the_place_of_an_input(tmp_path):
    path = _write(tmp_path / "a.json", [_result(_bar(0, 10))])
    merge_files([path, path], path)
    assert json.loads(path.read_text()) == [_result(_bar(0, 10))]


def test_masks_without_a_pixel_and_files_without_a_result(tmp_path):
    empty = {"size": [2, 40], "counts": pycocotools_rle(np.zeros((2, 40), bool))["counts"]}
    results = [_result(_bar(0, 10), segmentation=empty), _result(_bar(0, 10), 0.4)]
    paths = [_write(tmp_path / "a.json", results), _write(tmp_path / "b.json", [])]
    assert merge_files(paths, tmp_path / "out.json") == MergeCounts(1, (2, 0), 1)
    assert json.loads((tmp_path / "out.json").read_text()) == [_result(_bar(0, 10), 0.2)]
    assert merge_files([paths[1]], tmp_path / "out.json") == MergeCounts(0, (0,), 0)
    assert json.loads((tmp_path / "out.json").read_text()) == []


GOOD = _result(_bar(0, 10))
RLE = GOOD["segmentation"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param({"images": []}, "is no list of COCO results", id="dataset"),
        pytest.param([GOOD, 3], "result 1, counted from 0, is 3; write an object", id="no object"),
        pytest.param([{k: v for k, v in GOOD.items() if k != "score"}], "has the score None", id="no score"),
        pytest.param(
            [{k: v for k, v in GOOD.items() if k != "segmentation"}], "results without masks", id="boxes only"
        ),
        pytest.param([{**GOOD, "image_id": None}], "has the image_id None; write", id="image id"),
        pytest.param([{**GOOD, "category_id": 1.5}], "has the category_id 1.5; write", id="category id"),
        pytest.param([{**GOOD, "score": 1.5}], "has score 1.5", id="score"),
        pytest.param([{**GOOD, "score": float("nan")}], "has the score nan", id="nan"),
        pytest.param([{**GOOD, "score": None}], "has the score None", id="null"),
        pytest.param([{**GOOD, "bbox": [0, 0, -1, 2]}], "has the bbox", id="box"),
        pytest.param([{**GOOD, "bbox": [0, 0, float("inf"), 2]}], "has the bbox", id="infinite box"),
        pytest.param([{**GOOD, "bbox": [0, 0, 5]}], "has the bbox", id="short box"),
        pytest.param([{**GOOD, "image_id": 2, "segmentation": [[0, 0, 5, 0, 5, 2]]}], "nothing tells", id="polygons"),
        pytest.param([{**GOOD, "segmentation": {"size": [2, 40], "counts": [0, 81]}}], "make the pixels", id="counts"),
        pytest.param([{**GOOD, "segmentation": "x"}], "neither polygons nor an RLE", id="text"),
        pytest.param([{**GOOD, "segmentation": {"counts": "x"}}], "RLE whose size is not", id="no size"),
        pytest.param([{**GOOD, "segmentation": {**RLE, "size": [2]}}], "RLE whose size is not", id="size"),
        pytest.param([{**GOOD, "segmentation": {**RLE, "counts": "0"}}], "of image 1, has an RLE that", id="damaged"),
        pytest.param([{**GOOD, "segmentation": {**RLE, "counts": "ä"}}], "a character that no RLE has", id="no ascii"),
        pytest.param([_result(_bar(0, 10, 50))], "has a mask of 2 x 50, but its image is 2 x 40", id="sizes"),
    ],
)
def test_a_file_that_cannot_be_merged_is_named(tmp_path, content, words):
    good, bad = _write(tmp_path / "good.json", [GOOD]), _write(tmp_path / "bad.json", content)
    output = _write(tmp_path / "out.json", "before")
    with pytest.raises(CellSegError, match=words) as error:
        merge_files([good, bad], output)
    assert str(error.value).startswith(f"{bad}: ")
    assert json.loads(output.read_text()) == "before"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("number", [str, lambda number: 2**70 + number, lambda number: f"image {number}"])
def test_ids_of_any_kind_come_back_as_they_were(tmp_path, number):
    a, b = _bar(0, 10), _bar(20, 30)
    first = [_result(a, image=number(1), category="7"), _result(b, image=number(2), category=number(30))]
    polygon = {**_result(a, 0.4, image=number(1), category=7), "segmentation": [[0, 0, 10, 0, 10, 2, 0, 2]]}
    paths = [_write(tmp_path / "a.json", first), _write(tmp_path / "b.json", [polygon])]
    assert merge_files(paths, tmp_path / "out.json") == MergeCounts(2, (2, 1), 2)
    merged = json.loads((tmp_path / "out.json").read_text())
    assert merged == [{**first[0], "score": 0.45}, {**first[1], "score": 0.25}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": [1.0]}, "weights: 1 given for 2 files"),
        ({"weights": [1.0, -1.0]}, "weights: must each be"),
        ({"weights": [1.0, 0.0]}, "weights: must each be"),
        ({"weights": [1.0, float("nan")]}, "weights: must each be"),
        ({"iou": 1.0}, "iou: must be"),
        ({"iou": -0.1}, "iou: must be"),
        ({"score_threshold": 5.0}, "score threshold: must be"),
    ],
)
def test_options_out_of_range(tmp_path, options, words):
    path = _write(tmp_path / "good.json", [GOOD])
    with pytest.raises(CellSegError, match=words):
        merge_files([path, path], tmp_path / "out.json", **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CellSegError, match=r"none\.json: cannot be read"):
        merge_files([tmp_path / "none.json"], tmp_path / "out.json")
