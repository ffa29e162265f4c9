"""Open what holds annotations: text, JSON, CSV tables, and the films they speak of; what cannot be used is `BadData`."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from models import pixels
from models.datasets.faults import BadData
from models.image import Image


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadData(path, None, path.name, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadData(path, line, hex(error.object[error.start]), "this byte is not UTF-8") from error


def read_json(path: Path) -> tuple[str, Any]:
    """Return the text of a JSON file and what it holds."""
    text = read_text(path)
    try:
        return text, json.loads(text)
    except json.JSONDecodeError as error:
        raise BadData(path, error.lineno, path.name, f"is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise BadData(path, None, path.name, "is nested too deeply for an annotation") from error
    except ValueError as error:
        raise BadData(path, None, path.name, f"holds a number that is none: {error}") from error


def read_object(path: Path, *needs: str) -> dict[str, Any]:
    """Return what a JSON file of names and values holds; one that lacks a name of `needs` is refused."""
    found = read_json(path)[1]
    if not isinstance(found, dict):
        raise BadData(path, None, found, "is to hold names and values")
    for name in needs:
        if name not in found:
            raise BadData(path, None, ", ".join(found), f"lacks {name}")
    return found


def read_array(path: Path, made_by: str, *, mapped: bool = False) -> NDArray[Any]:
    """Return an array that numpy saved; one that is not there is refused with what makes it.

    Parameters
    ----------
    mapped
        Leave it on the disk until it is looked at.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise BadData(path, None, path.name, f"is not there; {made_by} makes it") from None
    except (OSError, EOFError, ValueError) as error:
        raise BadData(path, None, path.name, f"is no array, {made_by} makes it anew: {error}") from error
    return found


def is_film(path: Path) -> bool:
    """Tell whether there is such a file; a name that no file can have names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def load_film(path: Path) -> Image:
    """Return the pixels of a film that is to be learned from; one that cannot be read is refused."""
    try:
        return pixels.load(path)
    except pixels.UnreadablePixels as error:
        raise BadData(path, None, error.code, error.text) from error


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Return the annotation files of a folder, in the order of their names; a folder without any is refused."""
    found = sorted(folder.glob(f"*{suffix}"))
    if not found:
        reason = f"the folder holds no {suffix} file" if folder.is_dir() else "there is no such folder"
        raise BadData(folder, None, folder.name, reason)
    return found


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV table that has these columns, each with its line; what a short row lacks is empty."""
    table = csv.DictReader(io.StringIO(read_text(path)), restval="")
    try:
        for name, times in Counter(filter(None, table.fieldnames or ())).items():
            if times > 1:
                raise BadData(path, 1, name, f"is the name of {times} columns; which of them counts, nobody can say")
        missing = [name for name in columns if name not in (table.fieldnames or ())]
        if missing:
            header = ",".join(table.fieldnames or ())
            hint = "; columns are separated by commas" if ";" in header or "\t" in header else ""
            raise BadData(path, 1, header, f"lacks the columns {', '.join(missing)}{hint}")
        for row in table:
            for cell in row.pop(None, ()):  # the key of what lies beyond the header
                if cell.strip():
                    reason = "is beyond the last column; a number with a decimal comma stands in quotation marks or with a point"
                    raise BadData(path, table.line_num, cell, reason)
            yield table.line_num, row
    except csv.Error as error:
        raise BadData(path, table.line_num + 1, str(error), "the table is no CSV") from error


def number(path: Path, line: int, value: object, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number within limits."""
    try:
        found = float(value)  # type: ignore[arg-type]  # whatever the file holds
    except (TypeError, ValueError):
        raise BadData(path, line, value, f"{name} is not a number") from None
    except OverflowError:
        raise BadData(path, line, value, f"{name} is outside of {low:g} to {high:g}") from None
    if not math.isfinite(found) or not low <= found <= high:
        raise BadData(path, line, value, f"{name} is outside of {low:g} to {high:g}")
    return found


def same_size(path: Path, line: int, film: Path, rows: int, columns: int) -> None:
    """Refuse an annotation made on a copy of the film of another size: its boxes and outlines would lie elsewhere.

    Pictures are looked at here; a DICOM film only when it is loaded.
    """
    try:
        with PIL.Image.open(film) as picture:
            width, height = picture.size
    except (OSError, ValueError, PIL.Image.DecompressionBombError):
        return
    if (width, height) != (columns, rows):
        raise BadData(path, line, (columns, rows), f"the film {film.name} has {width} x {height} pixels")
