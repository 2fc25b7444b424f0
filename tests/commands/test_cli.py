"""What a command line's end looks like: the exit code, and one line for a mistake of the user's."""

import logging

import pytest

from cellseg_d2.commands.cli import ToolParser, configure_logging, run_tool, split_overrides
from cellseg_d2.errors import CellSegError


def raising(error):
    def main(argv):
        raise error

    return main


def test_success_is_0_and_the_arguments_come_through(capsys):
    seen = []
    assert run_tool(seen.append, ["--a", "b"]) == 0
    assert seen == [["--a", "b"]]
    assert capsys.readouterr().err == ""


def test_bad_input_is_2_and_one_line(capsys):
    assert run_tool(raising(CellSegError("a.tif: is\n  no\tTIFF; export it again"))) == 2
    assert capsys.readouterr().err == "error: a.tif: is no TIFF; export it again\n"


def test_wrong_usage_is_one_line_that_names_the_tool(capsys):
    parser = ToolParser("Converts.", prog="convert.py")
    parser.add_argument("--tile-size", type=int)
    assert run_tool(lambda argv: parser.parse_args(argv), ["--tile", "5"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --tile 5; see convert.py --help\n"


def test_control_c_is_130(capsys):
    assert run_tool(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), SystemExit(2)])
def test_anything_else_stays_an_exception(error):
    with pytest.raises(type(error)):
        run_tool(raising(error))


def test_log_lines_come_once_and_as_text_however_often_logging_is_configured(capsys):
    configure_logging()
    configure_logging()
    logging.getLogger("cellseg_d2.conversion.convert").info("300 tiles")
    logging.getLogger("cellseg_d2").warning("skipped: %s", "a.tif")
    logging.getLogger("cellseg_d2").debug("not shown")
    assert capsys.readouterr().err == "INFO 300 tiles\nWARNING skipped: a.tif\n"


def test_config_keys_end_the_options_wherever_these_end():
    words = ["--input", "A.TIF", "b.tif", "CELLSEG.INFERENCE.TTA.ENABLED", "True", "MODEL.DEVICE", "cpu"]
    assert split_overrides(words) == (words[:3], words[3:])
    assert split_overrides(words[:3]) == (words[:3], [])
