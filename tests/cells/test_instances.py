"""The cells of one image: boxes, scores, classes and cropped masks that stay together."""

import cv2
import numpy as np
import pytest
from drawing import drawn, overlapping_masks, pycocotools_rle
from hypothesis import given
from hypothesis import strategies as st

from cellseg_d2.cells.instances import CellInstances

SIZE = (9, 12)


def two_cells():
    masks = [np.array([[True, False], [True, True]]), np.ones((1, 3), bool)]
    return CellInstances(
        SIZE,
        np.array([[1, 2, 3, 4], [5.5, 6, 8, 7]], np.float32),
        np.array([0.9, 0.4], np.float32),
        np.array([0, 2]),
        masks,
        np.array([[1, 2], [5, 6]]),
    )


def frames(cells):
    """(N, H, W) masks in the frame of the image."""
    full = np.zeros((len(cells), *cells.image_size), bool)
    for frame, mask, (x, y) in zip(full, cells.masks, cells.origins):
        frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return full


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_masks_that_are_encoded_in_groups_have_the_same_texts(at_once, monkeypatch):
    masks = list(np.random.default_rng(0).integers(0, 2, (5, 9, 12)).astype(bool))
    rles = [pycocotools_rle(mask) for mask in masks]
    monkeypatch.setattr("cellseg_d2.cells.instances.RLES_AT_ONCE", at_once)
    assert CellInstances.from_rles(rles, [0] * 5, SIZE).rles() == rles


@drawn
@given(overlapping_masks())
def test_cells_from_rles_have_their_masks_tight_boxes_and_texts(masks):
    size = masks[0].shape if masks else SIZE
    rles = [pycocotools_rle(mask) for mask in masks]
    cells = CellInstances.from_rles(rles, list(range(len(masks))), size)
    assert len(cells) == len(masks)
    assert np.array_equal(frames(cells), np.array(masks, bool).reshape(-1, *size))
    assert cells.rles() == rles
    assert cells.areas.tolist() == [np.count_nonzero(mask) for mask in masks]
    assert np.array_equal(cells.mask_boxes, cells.boxes)
    assert cells.scores.tolist() == [1] * len(masks)
    assert cells.classes.tolist() == list(range(len(masks)))
    for mask in cells.masks:
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param(pycocotools_rle(np.zeros(SIZE, bool)), "cell 1, counted from 0, has no pixel", id="no pixel"),
        pytest.param(pycocotools_rle(np.ones((12, 9), bool)), "expected a compressed RLE of size", id="other size"),
        pytest.param({"size": [9, 12], "counts": [0, 108]}, "expected a compressed RLE", id="uncompressed"),
    ],
)
def test_rles_that_are_no_cells_are_refused(rle, message):
    good = pycocotools_rle(np.ones(SIZE, bool))
    with pytest.raises(ValueError, match=message):
        CellInstances.from_rles([good, rle, good], [0, 0, 0], SIZE)


def test_fields_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"boxes, scores, classes, masks and origins differ in length"):
        CellInstances.from_rles([pycocotools_rle(np.ones(SIZE, bool))], [0, 1], SIZE)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(slice(1, None), [1], id="slice"),
        pytest.param(np.array([True, False]), [0], id="mask"),
        pytest.param(np.array([1, 0, 1]), [1, 0, 1], id="numbers"),
        pytest.param(np.array([], np.int64), [], id="none"),
        pytest.param(np.array([False, False]), [], id="none by mask"),
    ],
)
def test_picking_cells_keeps_their_fields_together(index, expected):
    cells = two_cells()
    picked = cells[index]
    assert len(picked) == len(expected)
    assert np.array_equal(frames(picked), frames(cells)[expected])
    for name in ("boxes", "scores", "classes", "origins"):
        assert np.array_equal(getattr(picked, name), getattr(cells, name)[expected])


def test_mask_boxes_cover_the_masks_and_not_the_models_boxes():
    assert two_cells().mask_boxes.tolist() == [[1, 2, 3, 4], [5, 6, 8, 7]]
    assert two_cells().areas.tolist() == [3, 3]


@drawn
@given(overlapping_masks(), st.integers(0, 3), st.integers(0, 3))
def test_trimming_changes_no_pixel_and_drops_what_has_none(masks, left, top):
    height, width = masks[0].shape if masks else SIZE
    masks = [*masks, np.zeros((height, width), bool)]
    cells = CellInstances(
        (height + top, width + left),
        np.zeros((len(masks), 4), np.float32),
        np.arange(len(masks), dtype=np.float32),
        np.arange(len(masks)),
        masks,
        np.tile([left, top], (len(masks), 1)),
    )
    trimmed = cells.trimmed()
    assert trimmed.scores.tolist() == list(range(len(masks) - 1))
    assert np.array_equal(frames(trimmed), frames(cells)[:-1])
    assert trimmed.rles() == CellInstances.from_rles(trimmed.rles(), trimmed.classes, cells.image_size).rles()
    assert all(mask.any(axis=1)[[0, -1]].all() and mask.any(axis=0)[[0, -1]].all() for mask in trimmed.masks)


def test_moving_puts_cells_into_a_larger_image():
    cells = two_cells()
    moved = cells.moved(30, 40, (100, 90))
    assert moved.image_size == (100, 90)
    assert np.array_equal(frames(moved)[:, 40:49, 30:42], frames(cells))
    assert moved.areas.tolist() == cells.areas.tolist()
    assert (moved.boxes - cells.boxes).tolist() == [[30, 40, 30, 40]] * 2
    assert cells.origins.tolist() == [[1, 2], [5, 6]]


def test_joining_keeps_the_order():
    cells, none = two_cells(), CellInstances.empty(SIZE)
    joined = CellInstances.concatenate([cells[1:], none, cells])
    assert joined.scores.tolist() == pytest.approx([0.4, 0.9, 0.4])
    assert np.array_equal(frames(joined), frames(cells)[[1, 0, 1]])
    assert len(CellInstances.concatenate([none, none])) == 0


def test_cells_of_images_of_other_sizes_are_not_joined():
    with pytest.raises(ValueError, match=r"images of sizes"):
        CellInstances.concatenate([CellInstances.empty((3, 4)), CellInstances.empty((4, 3))])


def test_cells_from_annotations_leave_crowds_out():
    cells = two_cells()
    annotations = [
        {"segmentation": rle, "category_id": number + 4, "iscrowd": int(number == 0)}
        for number, rle in enumerate(cells.rles())
    ]
    read = CellInstances.from_annotations(annotations, SIZE)
    assert read.classes.tolist() == [4]
    assert np.array_equal(frames(read), frames(cells)[1:])


def test_an_image_without_cells():
    none = CellInstances.empty(SIZE)
    assert len(none) == 0
    assert none.rles() == []
    assert none.areas.shape == (0,)
    assert none.mask_boxes.shape == (0, 4)
    assert len(none.trimmed()) == len(none[np.array([], bool)]) == len(none.moved(1, 1, (20, 20))) == 0
    assert len(CellInstances.from_rles([], [], SIZE)) == 0


def three_cells(**more):
    """Two cells of class 0 and one of class 1, which lies on the second and scores less."""
    return CellInstances(
        (5, 6),
        np.zeros((3, 4), np.float32),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([0, 0, 1]),
        [np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((2, 3), bool)],
        np.array([[0, 0], [3, 2], [3, 3]]),
        **more,
    )


def test_a_label_image_has_the_better_cell_of_several():
    expected = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 2, 2, 0], [0, 0, 0, 2, 2, 3], [0, 0, 0, 3, 3, 3]]
    assert three_cells().label_image().tolist() == expected
    assert three_cells().label_image().dtype == np.int32
    assert CellInstances.empty((2, 3)).label_image().tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (three_cells(), "3 cells (2 class 0, 1 class 1) in an image of 5 x 6 pixels"),
        (three_cells(class_names=("a", "b")), "3 cells (2 a, 1 b) in an image of 5 x 6 pixels"),
        (three_cells(class_names=("a", "b"))[:1], "1 cell (1 a) in an image of 5 x 6 pixels"),
        (CellInstances.empty((2, 3)), "0 cells in an image of 2 x 3 pixels"),
    ],
)
def test_cells_say_in_a_line_how_many_they_are(cells, text):
    assert repr(cells) == text


def test_class_names_stay_with_the_cells():
    cells = three_cells(class_names=("a", "b"))
    kept = [cells[1:], cells.trimmed(), cells.moved(1, 1, (9, 9)), CellInstances.concatenate([cells, cells])]
    assert {cells.class_names for cells in kept} == {("a", "b")}
    assert cells.names == ["a", "a", "b"]


def test_a_notebook_shows_a_picture_and_the_text():
    cells = three_cells(class_names=("<b>", "b"))
    picture = cv2.imdecode(np.frombuffer(cells._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(picture, cells.picture())
    labels = cells.label_image()
    assert not picture[labels == 0].any()
    assert len({tuple(picture[labels == number].mean(axis=0)) for number in (1, 2, 3)}) == 3
    assert "<p>3 cells (2 &lt;b&gt;, 1 b) in an image of 5 x 6 pixels</p><img " in cells._repr_html_()


@pytest.mark.parametrize("origin", [0, 1, 2, 3, 5])
def test_a_picture_of_a_large_image_is_of_every_few_pixels(origin):
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    size = (2100, 2900)
    cells = CellInstances(
        size,
        np.zeros((1, 4), np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        [mask],
        np.full((1, 2), origin),
    )
    assert cells.picture().shape == (700, 967, 3)
    assert np.array_equal(cells.picture().any(axis=2), cells.label_image()[::3, ::3] > 0)
