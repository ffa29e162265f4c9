"""State one thing that was looked at: what was found, and what to change where it is wrong."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from service.errors import CarpusError


class Verdict(StrEnum):
    """How one thing was found."""

    GOOD = "good"
    WARNING = "warning"  # works, and somebody should look at it
    FAILED = "failed"
    SKIPPED = "skipped"


COLORS: Final = {
    Verdict.GOOD: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Parameters
    ----------
    place
        "this machine", "entrance", or the name of a destination.
    next_action
        The setting on our side or the entry in the PACS that has to change; empty where nothing has.
    """

    place: str
    name: str
    verdict: Verdict
    text: str
    next_action: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the line for a script."""
        return asdict(self)


def good(place: str, name: str, text: str) -> Finding:
    """Return a line that needs nobody."""
    return Finding(place, name, Verdict.GOOD, text)


def failed(place: str, name: str, error: CarpusError) -> Finding:
    """Return the line of an error, which carries what to do about it."""
    return Finding(place, name, Verdict.FAILED, str(error), error.next_action)


def skipped(place: str, name: str, text: str) -> Finding:
    """Return the line of something that was not looked at, and why."""
    return Finding(place, name, Verdict.SKIPPED, text)


def table(findings: Sequence[Finding]) -> Table:
    """Return what a person reads: one line each, what to do below what was found."""
    shown = Table(title="carpus check", title_justify="left", pad_edge=False)
    for column in ("where", "what", "", "found, and what to change"):
        shown.add_column(column, overflow="fold")
    place = None
    for each in findings:
        text = Text(each.text)
        if each.next_action:
            text.append(f"\n-> {each.next_action}", style="bold")
        if place is not None and each.place != place:
            shown.add_section()
        where = "" if each.place == place else each.place
        shown.add_row(where, each.name, Text(each.verdict, style=COLORS[each.verdict]), text)
        place = each.place
    return shown


def summary(findings: Sequence[Finding]) -> str:
    """Return the counts in one line."""
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
