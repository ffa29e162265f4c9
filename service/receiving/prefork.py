"""Receive with several processes on one port: Python's interpreter lock lets one process use little more than one core.

The parent listens, forks, and waits; the children accept from the same socket. They die with their parent, and when one of them
dies all of them end, so that whoever keeps the service alive starts it anew and what the crash left is cleared up before anybody
receives again.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from service.errors import Retryable
from service.log import get_logger, whereabouts

log = get_logger()

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
STOP_SECONDS: Final = 14.0  # for the messages under way; then SIGKILL
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def run(processes: int, work: Callable[[int], None]) -> None:
    """Do the work in so many processes until SIGTERM or SIGINT, which each of them gets.

    Parameters
    ----------
    work
        Called in each child with its index; returns when the child is asked to stop.

    Raises
    ------
    Retryable
        When a child ended without being asked; the others have been stopped.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none may get lost between the fork and the wait
    children = {_fork(work, index): index for index in range(processes)}
    asked = False
    try:
        while not asked and len(children) == processes:
            got = signal.sigwait(SIGNALS)
            asked = got in (signal.SIGTERM, signal.SIGINT)
            _bury(children)
    finally:
        died = processes - len(children)
        _stop(children)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if died and not asked:
        raise Retryable(
            f"{died} of {processes} receiving processes died", code="process-died", next_action="see the log"
        )


def _fork(work: Callable[[int], None], index: int) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _die_with(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        work(index)
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing of the parent's may run in the child; the error is logged
        log.error("receiving process failed", index=index, **whereabouts(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies: the port must be free for the next one."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _bury(children: dict[int, int]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            log.error("receiving process died", index=children.pop(pid), pid=pid, status=code)


def _stop(children: dict[int, int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for pid in children:
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                log.warning("receiving process killed", pid=pid, after_seconds=STOP_SECONDS)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.02)
