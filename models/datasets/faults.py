"""The one error of bad training data."""

from pathlib import Path
from typing import Final

from models.refusal import Refusal

SHOWN: Final = 160  # characters of a value; a file that is wrong as a whole can hold megabytes in one


class BadData(Refusal):
    """Data that cannot be trained on; `path`, `line` and `value` say where and what.

    Parameters
    ----------
    path
        The file at fault.
    line
        Its line, counted from 1, or None where the fault is the file as a whole.
    value
        What was found there.
    reason
        What is wrong with it and what would be right.
    """

    def __init__(self, path: Path, line: int | None, value: object, reason: str) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        shown = repr(value)
        if len(shown) > SHOWN:
            shown = f"{shown[:SHOWN]}…"
        super().__init__(f"{where}: {shown}: {reason}")
        self.path = path
        self.line = line
        self.value = value
        self.reason = reason
