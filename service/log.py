"""Log events with fields, as JSON lines or as text for a terminal.

No field ever holds a patient's value: instances are named by their row in the database, peers by their AE title.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog

# The loggers of the libraries print identifiers of the data they handle at INFO and below.
QUIET = (
    "pynetdicom",
    "celery",
    "kombu",
    "highdicom",
    "PIL",
    "uvicorn.access",
    "alembic",
)
# What these warn of names the address that was asked, with the patient in its query, or a value of a header as it came, with whatever
# a peer wrote into it; we say ourselves what went wrong and what we tolerated.
SILENT = ("urllib3", "dicomweb_client", "retrying", "pydicom")


def configure(level: str = "INFO", *, as_json: bool = True, stream: TextIO | None = None) -> None:
    """Set up logging for this process.

    Raises
    ------
    ValueError
        When `level` is not a level of the standard library.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is not one of {', '.join(logging.getLevelNamesMapping())}")
    out = stream or sys.stderr
    logging.basicConfig(level=number, stream=out, format="%(message)s", force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="pydicom")  # the same texts as those to its logger
    fields: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if as_json:  # the lines of libraries too: a text of theirs that has line ends in it is one line
        named = [structlog.stdlib.add_logger_name, *fields]
        for handler in logging.getLogger().handlers:
            handler.setFormatter(
                structlog.stdlib.ProcessorFormatter(structlog.processors.JSONRenderer(), foreign_pre_chain=named)
            )
    structlog.configure(
        processors=[
            *fields,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return a logger; call it as `log.info("instance stored", instance=…, bytes=…)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Add fields, e.g. the job, to every line that this thread logs in the block, whichever module writes it."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def whereabouts(error: BaseException) -> dict[str, str]:
    """Return log fields that locate an unexpected error. Its message stays out: it may hold a value of a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
    return {"error": type(error).__name__, "at": place}
