"""Let a process that dies leave nothing of a patient behind: no memory dump, no message of an error that nobody foresaw.

A core dump holds whatever films were in memory, and the text of an exception from a library may quote a value of a header. What
is left is where it happened. A kernel that pipes its dumps into a program asks that program, not us (core(5)): see
docs/security.md.
"""

import resource
import sys
import threading
import traceback
from types import TracebackType
from typing import Final

from service.log import get_logger, whereabouts

SERVICES: Final = frozenset({"serve", "scp", "intake", "worker", "web", "demo"})  # commands that films pass through


def no_dumps() -> None:
    """Forbid core dumps to this process and to those it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def no_messages() -> None:
    """Tell of an error nobody caught by its type and its place, in the main thread and in every other one."""
    sys.excepthook = _main_thread
    threading.excepthook = _thread


def _main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    sys.stderr.write("".join(traceback.format_tb(trace)))
    get_logger().critical("process ended by an error", **whereabouts(error))


def _thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        get_logger().error(
            "thread ended by an error", thread=told.thread.name if told.thread else "", **whereabouts(told.exc_value)
        )
