"""What every command line under tools/ shares: logging, and one clear line instead of a traceback."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cellseg_d2.errors import CellSegError


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, as all others are; options cannot be abbreviated."""

    def __init__(self, description: str | None = None, **kwargs: Any) -> None:
        super().__init__(description=description, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong with the command line."""
        raise CellSegError(f"{message}; see {self.prog} --help")


def configure_logging() -> None:
    """Sends the package's log lines to stderr, each as plain text."""
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
