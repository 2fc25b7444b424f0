"""Files that appear whole or not at all."""

import csv

import pytest

from cellseg_d2.errors import CellSegError
from cellseg_d2.files import whole_file, write_csv


def test_a_file_appears_at_the_end_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as partial:
        partial.write_text("x")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "disk" / "a.txt")
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "a.txt").is_symlink()
    assert [(file.name, file.read_text()) for file in (tmp_path / "disk").iterdir()] == [("a.txt", "new")]


def test_what_fails_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    with pytest.raises(CellSegError) as caught, whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        f"{tmp_path / 'a.txt'}: cannot be written (No space left on device); fix that and run again"
    )
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_one_line_too(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CellSegError, match=r"a\.txt: cannot be written"), whole_file(tmp_path / "out" / "a.txt"):
        pass


def test_errors_of_other_files_are_not_taken_for_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image\.tif"), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        (tmp_path / "image.tif").read_bytes()
    assert not list(tmp_path.iterdir())


def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe_and_numbers_do_not(tmp_path):
    run = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1"]
    harmless = ["CD4+", "a=b", "'=1", "", " =1", "x@y"]
    write_csv(tmp_path / "new" / "table.csv", [run[0], "b"], [*([text, -1.5] for text in run + harmless), ["\r=1", 2]])
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
        assert [" =1", "2"] == rows.pop()
    assert header == ["'=1+1", "b"]
    assert rows == [*([f"'{text}", "-1.5"] for text in run), *([text, "-1.5"] for text in harmless)]
