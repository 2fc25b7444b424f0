"""The one exception that command lines turn into a line on stderr and exit code 2."""


class CellSegError(Exception):
    """Bad input or wrong usage. The message is one line that names the file, key or value and how to mend it."""
