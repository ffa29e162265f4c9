"""What somebody gave cannot be used: the base of every error that says so, and how a script ends on one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

STATUS: Final = 2  # as argparse ends on an option that it cannot use


class Refusal(ValueError):
    """Data, weights, a bundle or options that cannot be used; the text is one sentence: where, which value, what would be right."""


def folder(path: Path | None) -> Path | None:
    """Return the folder that an option names; None where it was not given.

    Raises
    ------
    Refusal
        When there is none.
    """
    if path is not None and not path.is_dir():
        raise Refusal(f"{path} is no folder" if path.exists() else f"there is no folder {path}")
    return path


def command(main: Callable[[], object]) -> None:
    """Run a script; what it refuses, and a file that it cannot open, ends it with one line and status 2, not with a traceback."""
    try:
        main()
    except Refusal as error:
        text = str(error)
    except OSError as error:
        if error.filename is None:  # no file that was named: a fault of the machine or of ours
            raise
        text = f"{error.filename}: {error.strerror}"
    else:
        return
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {text}\n")
    raise SystemExit(STATUS)
