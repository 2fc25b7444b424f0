"""What every command line under tools/ shares: logging, and one clear line instead of a traceback."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cellseg_d2.errors import CellSegError

CONFIG_KEY = re.compile(r"(CELLSEG|DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST)(\.[A-Z0-9_]+)+")
"""``MODEL.DEVICE`` and the like, but not ``IMAGE.TIF``."""


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, as all others are; options cannot be abbreviated."""

    def __init__(self, description: str | None = None, **kwargs: Any) -> None:
        super().__init__(description=description, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong with the command line."""
        raise CellSegError(f"{message}; see {self.prog} --help")


def split_overrides(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A command line's options, and the config keys and values that end it.

    They begin at the first word that looks like a key, so that an option with several values may stand before them.

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
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors; nobody can mend it here
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    package = logging.getLogger("cellseg_d2")
    if not package.handlers:
        package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def run_tool(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command line's ``main``.

    Returns:
        The exit code: 0 on success, 2 on :class:`CellSegError` (bad input or wrong usage, one line on stderr), 130 on
        Ctrl-C. Anything else stays an exception, which Python ends with exit code 1.
    """
    configure_logging()
    try:
        main(argv)
    except CellSegError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0
