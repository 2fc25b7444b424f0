"""The exceptions that commands turn into a line on stderr and an exit code."""


class CellSegError(Exception):
    """Bad input or wrong usage. The message is one line that names the file, key or value and how to fix it."""


class Stopped(BaseException):
    """Work that a signal ended. No ``Exception``: it is no failure, and Detectron2 would log it with its traceback.

    Attributes:
        signal: the signal's number.
        exit_code: the process's exit code, as shells give it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
        self.exit_code = 128 + signal


def one_line(error: BaseException, length: int = 200) -> str:
    r"""The text of an exception of another library on one line, or its type's name where it has none.

    >>> one_line(ValueError("first\n  second"))
    'first second'
    """
    return (" ".join(str(error).split()) or type(error).__name__)[:length]


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1_204, "image"), counted(2, "class", "classes")
    ('1 image', '1,204 images', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size_text(shape: tuple[int, ...]) -> str:
    """The size of an image in messages.

    >>> size_text((96, 128, 3))
    '96 x 128'
    """
    return f"{shape[0]} x {shape[1]}"


def turned_text(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What to add to a message on two sizes that differ by a quarter turn, as of a photograph; else nothing.

    >>> turned_text((128, 96, 3), (96, 128))
    '; it is turned by a quarter, as EXIF orientation does: save both the same way up'
    >>> turned_text((128, 95), (96, 128))
    ''
    """
    turned = shape[:2] == expected[:2][::-1] != expected[:2]
    return "; it is turned by a quarter, as EXIF orientation does: save both the same way up" if turned else ""
