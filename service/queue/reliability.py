"""Write the tables of `docs/reliability.md` that say what the code does: deadlines of the states, what follows each cause.

    python -m service.queue.reliability

The rest of the page is written by hand; a test holds it together with the code.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from service.ledger import DEADLINES, FINAL
from service.queue.causes import POISON_AFTER, POLICIES, Kind
from service.settings import BreakerSettings, Limits, RetrySettings, WorkerSettings
from service.tables import State

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def parts() -> dict[str, str]:
    """Return the generated parts of the page by name."""
    return {
        name: "\n".join(lines) for name, lines in (("states", _states()), ("causes", _causes()), ("limits", _limits()))
    }


def render(page: str) -> str:
    """Return the page with its generated parts made anew.

    Raises
    ------
    ValueError
        When the page lacks the marks of a part.
    """
    for name, text in parts().items():
        head, begin, rest = page.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END.format(name))
        if not begin or not end:
            raise ValueError(f"the page has no part {name}: {BEGIN.format(name)} ... {END.format(name)}")
        page = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    return page


def _states() -> Iterator[str]:
    return _table(
        ("State", "Left within", "Then"),
        (
            (
                state,
                _span(DEADLINES[state]),
                "overdue: shown with its cause, counted in `carpus_jobs_overdue`; it goes on",
            )
            if state in DEADLINES
            else (state, "final" if state in FINAL else "-", "")
            for state in State
        ),
    )


def _causes() -> Iterator[str]:
    retry = RetrySettings()
    what = {
        Kind.PERMANENT: "stops at once",
        Kind.TRANSIENT: f"again and again for {retry.for_hours:g} h",
        Kind.POISON: f"{POISON_AFTER} tries",
    }
    return _table(
        ("Cause", "Kind", "What follows", "First delay", "Next action, where the cause names none"),
        (
            (
                f"`{code}`",
                policy.kind,
                what[policy.kind],
                "-" if policy.kind is Kind.PERMANENT else f"{retry.first_seconds * policy.pace:g} s",
                policy.next_action,
            )
            for code, policy in POLICIES.items()
        ),
    )


def _limits() -> Iterator[str]:
    limits, breaker, worker = Limits(), BreakerSettings(), WorkerSettings()
    return _table(
        ("Refused early (0xA700), left alone or replaced when", "Setting", "Default"),
        (
            ("less is free on the disk", "limits.minimum_free_disk_bytes", f"{limits.minimum_free_disk_bytes} bytes"),
            ("more instances wait to be prepared", "limits.maximum_backlog", str(limits.maximum_backlog)),
            (
                "the oldest of them waits longer",
                "limits.maximum_backlog_seconds",
                f"{limits.maximum_backlog_seconds:g} s",
            ),
            ("the database takes longer", "limits.maximum_database_seconds", f"{limits.maximum_database_seconds:g} s"),
            ("a destination fails so often in a row", "breaker.failures", str(breaker.failures)),
            ("no message comes through for longer", "worker.stall_seconds", f"{worker.stall_seconds:g} s"),
            ("a step takes longer", "worker.step_seconds", f"{worker.step_seconds:g} s"),
            (
                "preparing a film takes longer",
                "limits.maximum_preparation_seconds",
                f"{limits.maximum_preparation_seconds:g} s",
            ),
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _span(span: dt.timedelta) -> str:
    minutes = span.total_seconds() / 60
    return f"{minutes:g} min" if minutes < 120 else f"{minutes / 60:g} h"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
