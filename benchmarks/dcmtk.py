"""Find the programs of DCMTK: other packages install some of the same names, as pynetdicom does beside the interpreter."""

import os
import subprocess
from functools import cache
from pathlib import Path

from models import refusal


@cache
def find(name: str) -> str | None:
    """Return the path of a program of DCMTK, the first on the PATH that says it is one; None where there is none."""
    for directory in os.get_exec_path():
        path = Path(directory) / name
        if path.is_file() and os.access(path, os.X_OK):
            said = subprocess.run(
                [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
            )
            if "$dcmtk" in said.stdout:
                return str(path)
    return None


def needed(name: str) -> str:
    """Return the path of a program of DCMTK.

    Raises
    ------
    Refusal
        When there is none.
    """
    found = find(name)
    if found is None:
        raise refusal.Refusal(f"{name} of DCMTK is not on the PATH (Debian: dcmtk)")
    return found
