"""Say why a file holds no film we can read."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# What codecs raise on hostile bytes; none of them promises a class.
DECODER_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def panics_are_errors() -> Iterator[None]:
    """Let a codec in Rust fail like any other: its panics do not derive from Exception, and would end the process.

    Raises
    ------
    RuntimeError
        In place of a panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3; pylibjpeg-rle and pylibjpeg-openjpeg bring one each
            raise RuntimeError(f"the codec panicked: {first_line(error)}") from error
        raise


class UnreadablePixels(ValueError):
    """A file that holds no film we can read; `code` is stable, `text` names the value and the limit."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def first_line(error: object) -> str:
    """Shorten an error to its first line: codecs append pages of advice."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def texts(tolerated: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """Turn caught warnings into remarks, each once."""
    return tuple(dict.fromkeys(first_line(warning.message) for warning in tolerated))
