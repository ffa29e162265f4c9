"""Decide what follows a failure, from its cause: stop at once, try again later, or give up.

One table. *Permanent*: the same call fails again until somebody changes something, so it stops at the first time and names what
to change. *Transient*: it may pass by itself, so it is tried again, each time after about twice the time, for days. *Poison*:
nobody foresaw it or it kills the worker; a few tries, then it is a dead letter. The class of the error says which; the table
gives what the administrator should do where the error itself names nothing, and how eagerly to try again.
"""

import datetime as dt
import random
import sqlite3
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from sqlalchemy.exc import OperationalError

from service.errors import CarpusError, Permanent, Postponed, Retryable
from service.settings import RetrySettings

POISON_AFTER: Final = 3  # tries, or workers lost, until a job that nobody understands is taken out


class Kind(StrEnum):
    """What helps against a cause."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    POISON = "poison"


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows one cause; `pace` multiplies the first delay of the settings."""

    kind: Kind
    next_action: str
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be recorded; without a delay the job is a dead letter."""

    code: str
    text: str
    next_action: str
    delay: dt.timedelta | None

    @property
    def last(self) -> bool:
        """Whether this was the last try."""
        return self.delay is None


_OBJECT: Final = "an object we made is not valid for this PACS: report it with the job's timeline"
_REGISTER: Final = "in the PACS, register our AE title with the address of this machine"
# By the code of the cause, the first pattern that matches; a code that none matches follows the class of its error.
POLICIES: Final[Mapping[str, Policy]] = {
    # the way to the PACS
    "peer-unreachable": Policy(Kind.TRANSIENT, "check that the PACS runs, and the destination's host and port", pace=2),
    "association-aborted": Policy(Kind.TRANSIENT, "none: it is sent again; if it repeats, ask for the PACS's log"),
    "association-rejected": Policy(Kind.TRANSIENT, "none: the PACS asked to be called again", pace=2),
    "calling-ae-refused": Policy(Kind.PERMANENT, _REGISTER),
    "called-ae-refused": Policy(Kind.PERMANENT, "correct the destination's ae_title"),
    "application-context-refused": Policy(Kind.PERMANENT, "correct the destination's host and port"),
    "protocol-version-refused": Policy(Kind.PERMANENT, "correct the destination's host and port"),
    "sop-class-refused": Policy(Kind.PERMANENT, "in the PACS, allow the SOP class for our AE title"),
    "conflicting-patient": Policy(Kind.PERMANENT, "correct the patient of the study in the PACS, then retry the job"),
    "invalid-profile": Policy(Kind.PERMANENT, "choose another profile: `carpus profiles use DESTINATION NAME`"),
    "transfer-syntax-refused": Policy(Kind.PERMANENT, "in the PACS, allow the transfer syntax"),
    "too-many-contexts": Policy(Kind.PERMANENT, "take some objects out of the destination's profile"),
    "no-destination": Policy(Kind.PERMANENT, "name the PACS under `destinations`, restart, then retry the job"),
    # what the PACS answers to C-STORE (PS3.4 B.2.3, PS3.7 C)
    "status-a7??": Policy(Kind.TRANSIENT, "none: it is sent again; make room in the PACS if it repeats", pace=6),
    "status-a9??": Policy(Kind.PERMANENT, "ask the PACS administrator for its log of this instance"),
    "status-c???": Policy(Kind.PERMANENT, "ask the PACS administrator for its log of this instance"),
    "status-0122": Policy(Kind.PERMANENT, "in the PACS, allow this SOP class for our AE title"),
    "status-0124": Policy(Kind.PERMANENT, "in the PACS, give our AE title the right to store"),
    "status-0211": Policy(Kind.PERMANENT, "this port of the PACS does not store: correct the destination's port"),
    "status-0119": Policy(Kind.PERMANENT, "an object of another SOP class holds this UID in the PACS: remove it there"),
    "status-0106": Policy(Kind.PERMANENT, _OBJECT),
    "status-0117": Policy(Kind.PERMANENT, _OBJECT),
    "status-0120": Policy(Kind.PERMANENT, _OBJECT),
    "status-0212": Policy(Kind.PERMANENT, _OBJECT),
    # our own side
    "disk-full": Policy(Kind.TRANSIENT, "make room on the disk of the data directory", pace=6),
    "database-unavailable": Policy(Kind.TRANSIENT, "start the database, or correct database_url"),
    "vault-unavailable": Policy(Kind.TRANSIENT, "let this user read and write keys/ of the data directory", pace=2),
    "invalid-instance": Policy(Kind.PERMANENT, "look at the film in quarantine; send a corrected one"),
    "not-a-file": Policy(Kind.PERMANENT, "remove it, see who else writes into the data directory, then retry the job"),
    "unsafe-name": Policy(Kind.PERMANENT, "report this with the job's timeline"),
    "invalid-configuration": Policy(Kind.PERMANENT, "correct the setting, restart, then retry the job"),
    # what nobody foresaw
    "unexpected-error": Policy(Kind.POISON, "report this with the job's timeline; retry once it is mended"),
    "worker-lost": Policy(Kind.POISON, "look into the worker's log for this job, then retry or cancel it"),
}


def policy_of(error: Exception) -> Policy:
    """Return what follows this error: its row of the table; its class decides where the table has none."""
    if not isinstance(error, CarpusError):
        return POLICIES["unexpected-error"]
    row = next((policy for pattern, policy in POLICIES.items() if fnmatchcase(error.code, pattern)), None)
    kind = Kind.PERMANENT if isinstance(error, Permanent) else Kind.TRANSIENT
    if row is None or (row.kind is not kind and row.kind is not Kind.POISON):
        return Policy(kind, error.next_action)
    return row


def decide(
    error: Exception, *, attempts: int, failing_since: dt.datetime | None, now: dt.datetime, retry: RetrySettings
) -> Decision:
    """Return what is to be recorded of a failed step and when it is tried again.

    Parameters
    ----------
    attempts
        Of this step, this one included.
    failing_since
        The first failure of this step; None when this is the first.
    """
    error = _ours(error)
    policy = policy_of(error)
    code, text = describe(error)
    action = (error.next_action if isinstance(error, CarpusError) else "") or policy.next_action
    if isinstance(error, Postponed):
        wait: dt.timedelta | None = dt.timedelta(seconds=error.seconds)
    else:
        wait = backoff(retry, attempts, policy.pace)
    if policy.kind is Kind.PERMANENT or (policy.kind is Kind.POISON and attempts >= POISON_AFTER):
        wait = None
    elif failing_since is not None and now - failing_since > dt.timedelta(hours=retry.for_hours):
        wait = None
        text += f"; given up after {retry.for_hours:g} hours and {attempts} attempts"
        action = f"mend the cause, then retry the job ({action})" if action else "mend the cause, then retry the job"
    return Decision(code, text, action, wait)


def _ours(error: Exception) -> Exception:
    """Return an error that passes for what a database that is away, restarts or is locked raises in the middle of a step."""
    if not isinstance(error, OperationalError) or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return error  # SQLite calls a faulty statement operational, too; nothing mends that by itself
    kind = type(error.orig).__name__
    return Retryable(f"the database did not answer in the middle of the step ({kind})", code="database-unavailable")


def describe(error: Exception) -> tuple[str, str]:
    """Return code and text of an error; the text of a foreign one may quote a patient, so only its kind and place are kept."""
    if isinstance(error, CarpusError):
        return error.code, str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "unexpected-error", f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def backoff(retry: RetrySettings, attempt: int, pace: float = 1.0) -> dt.timedelta:
    """Return how long to wait after this attempt (1 is the first): doubled each time up to the longest, spread over its upper half."""
    seconds = min(retry.longest_seconds, retry.first_seconds * pace * 2.0 ** min(attempt - 1, 30))
    return dt.timedelta(seconds=seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
