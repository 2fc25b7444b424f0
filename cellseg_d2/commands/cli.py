"""Shared by all commands: help with defaults, logging, and one clear line instead of a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cellseg_d2
from cellseg_d2.errors import CellSegError, Stopped

CONFIG_KEY = re.compile(r"(CELLSEG|DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST)(\.[A-Z0-9_]+)+")
"""``MODEL.DEVICE`` and the like, but not ``IMAGE.TIF``."""


NEEDED = {"detectron2": "Detectron2", "torch": "torch", "torchvision": "torchvision"}
"""What only some commands need, and no plain ``pip install`` brings on each Python, by module."""


class DefaultsFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option's default, unless that is nothing, False or an empty list."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = default_text(action)
        return f"{text} (default: {default})" if default else text


def default_text(action: argparse.Action) -> str:
    """An option's default for its help text; empty where there is none, or where the help text states it already."""
    if action.required or action.nargs == 0 or "(default" in (action.help or ""):
        return ""
    if action.default is None or action.default is False or action.default in ("", argparse.SUPPRESS):
        return ""
    is_list = isinstance(action.default, (list, tuple))
    return " ".join(map(str, action.default)) if is_list else str(action.default)


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line and whose help shows defaults; options are not abbreviated.

    Each prints the version with ``--version``.
    """

    def __init__(self, description: str | None = None, **kwargs: Any) -> None:
        options = {"formatter_class": DefaultsFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(description=description, **options)
        text = "print the version of cellseg-d2"
        self.add_argument("--version", action="version", version=f"cellseg-d2 {cellseg_d2.__version__}", help=text)

    def error(self, message: str) -> NoReturn:
        """Raises CellSegError, which ends the command with one line and exit code 2."""
        raise CellSegError(f"{message}; see {self.prog} --help")


def positive(text: str) -> int:
    """An argument type: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def add_score_threshold(parser: argparse.ArgumentParser, use: str) -> None:
    """Adds ``--score-threshold``, the least score of predictions that were selected by ``predict`` already."""
    default = "as predict chose, by prediction.json beside the results; 0.5 without one"
    parser.add_argument("--score-threshold", type=float, metavar="S", help=f"{use} (default: {default})")


def add_object_type(parser: argparse.ArgumentParser) -> None:
    """Adds ``--as``, what cells are in QuPath."""
    from cellseg_d2.export.formats import DETECTION, OBJECT_TYPES

    parser.add_argument(
        "--as",
        dest="object_type",
        choices=OBJECT_TYPES,
        default=DETECTION,
        help="what cells are in geojson: QuPath edits the outlines of annotations, and shows far more detections",
    )


def split_overrides(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A command line's options, and the config keys and values that end it.

    The keys begin at the first word that looks like one, so that an option with several values may stand before them.

    Args:
        argv: the words after the command's name; None for those of this process.

    >>> split_overrides(["--formats", "csv", "rois", "MODEL.DEVICE", "cpu"])
    (['--formats', 'csv', 'rois'], ['MODEL.DEVICE', 'cpu'])
    """
    words = list(sys.argv[1:] if argv is None else argv)
    first = next((place for place, word in enumerate(words) if CONFIG_KEY.fullmatch(word)), len(words))
    return words[:first], words[first:]


def configure_logging() -> None:
    """Sends the package's log lines to stderr, each as plain text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    package = logging.getLogger("cellseg_d2")
    if not package.handlers:
        package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def run_tool(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command's ``main``.

    Returns:
        The exit code: the result of ``main``, or 0 for None; 2 on :class:`CellSegError` (bad input or wrong usage) and
        without torch or Detectron2, with one line on stderr; 130 on Ctrl-C and 143 on SIGTERM; 0 where a reader such as
        ``head`` closes the pipe. Other exceptions are raised, and Python ends with exit code 1.
    """
    configure_logging()
    try:
        try:
            code = main(argv) or 0
        except SystemExit:  # argparse ends the process once it has printed its help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except CellSegError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in NEEDED:
            raise
        sys.stderr.write(f"error: {NEEDED[package]} is not installed; docs/install.md has the command for it\n")
        return 2
    except Stopped as stopped:
        sys.stderr.write(f"stopped by {signal.Signals(stopped.signal).name}\n")
        return stopped.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # Python flushes stdout again when it ends; that must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
