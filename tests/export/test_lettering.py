"""Text in pictures."""

import numpy as np
import pytest

from cellseg_d2.export.lettering import LINE_HEIGHT, legend, lettering, swatch

RED = np.array([200, 0, 0], np.uint8)


def ink(picture):
    return (picture < 128).any()


@pytest.mark.parametrize("width", [40, 200, 900])
def test_letters_have_one_size_and_long_text_goes_on_below(width):
    text = "ground truth: 1,234 cells, 12 missed"
    alone, wrapped = lettering(text), lettering(text, width)
    assert len(alone) == LINE_HEIGHT and wrapped.shape[1] == width
    assert len(wrapped) % LINE_HEIGHT == 0
    assert (len(wrapped) == LINE_HEIGHT) == (alone.shape[1] <= width)
    for line in range(0, len(wrapped), LINE_HEIGHT):
        assert ink(wrapped[line : line + LINE_HEIGHT])


def test_a_name_that_is_too_long_keeps_its_start_and_its_end():
    name = "slide_0123456789_0123456789_0123456789_tile_7.tif"
    cut = lettering(name, 200)
    assert cut.shape == (LINE_HEIGHT, 200, 3)
    assert np.array_equal(cut[:, :40], lettering(name)[:, :40])
    assert ink(cut[:, 150:])


def test_text_that_is_empty_or_has_no_room_is_drawn_too():
    assert lettering("").shape[0] == lettering("long", 1).shape[0] == LINE_HEIGHT


@pytest.mark.parametrize("width", [60, 300, 2000])
def test_every_entry_of_a_legend_is_there_whatever_its_width(width):
    names = ["tumour", "a stroma of quite a long name", "mitosis", *(f"class {number}" for number in range(20))]
    drawn = legend([(swatch(RED), name) for name in names], width)
    assert drawn.shape[1] == width and len(drawn) % LINE_HEIGHT == 0
    squares = (drawn == RED).all(axis=2).sum() / (swatch(RED) == RED).all(axis=2).sum()
    assert squares == len(names)
