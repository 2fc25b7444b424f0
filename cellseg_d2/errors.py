"""The one exception that command lines turn into a line on stderr and exit code 2."""


class CellSegError(Exception):
    """Bad input or wrong usage. The message is one line that names the file, key or value and how to fix it."""


def one_line(error: BaseException, length: int = 200) -> str:
    r"""The text of an exception of another library on one line, or its type's name where it has none.

    >>> one_line(ValueError("first\n  second"))
    'first second'
    """
    return (" ".join(str(error).split()) or type(error).__name__)[:length]


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1_204, "image")
    ('1 image', '1204 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_text(shape: tuple[int, ...]) -> str:
    """The size of an image in messages.

    >>> size_text((96, 128, 3))
    '96 x 128'
    """
    return f"{shape[0]} x {shape[1]}"
