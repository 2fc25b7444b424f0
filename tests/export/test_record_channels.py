"""What ``prediction.json`` says of channels, and how pictures beside results follow."""

import pytest

from cellseg_d2.errors import CellSegError
from cellseg_d2.export.record import Record, picture_rule
from cellseg_d2.files import read_json, write_json
from cellseg_d2.images.channels import Channels, PixelRule
from cellseg_d2.images.listing import RESULTS_RECORD
from cellseg_d2.images.tiff import INTENSITY_RULE

FOUR = Channels(("a", "b", "c", "d"), ("d", "a"))


def test_channels_are_read_back(tmp_path):
    Record(["nucleus"], channels=FOUR).write(tmp_path)
    assert Record.read(tmp_path).channels == FOUR
    assert Record.read(tmp_path).pixel_rule == PixelRule(INTENSITY_RULE, FOUR.names)


def test_a_record_of_rgb_says_nothing_of_channels(tmp_path):
    Record(["nucleus"]).write(tmp_path)
    assert "channels" not in read_json(tmp_path / RESULTS_RECORD)
    assert Record.read(tmp_path).channels == Channels()


@pytest.mark.parametrize(
    "channels", [{"names": "abc"}, {"names": [1]}, {"names": ["a"], "shown": ["b"]}, {"shown": ["a"]}, ["a"]]
)
def test_damaged_channels_are_told(tmp_path, channels):
    Record(["nucleus"], channels=FOUR).write(tmp_path)
    write_json(tmp_path / RESULTS_RECORD, {**read_json(tmp_path / RESULTS_RECORD), "channels": channels})
    with pytest.raises(CellSegError, match="is not what predict writes"):
        Record.read(tmp_path)


def test_pictures_show_what_overlays_show_unless_others_are_asked_for(tmp_path):
    results = tmp_path / "test-results.json"
    assert picture_rule(results).channels == ()
    Record(["nucleus"], channels=FOUR).write(tmp_path)
    assert picture_rule(results).channels == ("d", "a")
    assert picture_rule(results, ["c"]).channels == ("c",)
    Record(["nucleus"], channels=Channels(FOUR.names)).write(tmp_path)
    assert picture_rule(results).channels == ("a", "b", "c")
    with pytest.raises(CellSegError, match="4 channels cannot be shown as red, green and blue; give up to three"):
        picture_rule(results, FOUR.names)
