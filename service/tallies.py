"""Keep what the counters of the metrics had counted of rows that retention removes, in the transaction that removes them.

The counters are sums over the tables. Prometheus takes one that falls for one that began anew, and all that it still shows for
new: one film removed of a thousand would be 999 films received, and might ring an alert.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import ScalarSelect, Select, func, select, union_all
from sqlalchemy.orm import Session

from service.tables import Tally

INSTANCES: Final = "instances_received"
BYTES: Final = "received_bytes"
QUARANTINED: Final = "quarantined"  # by cause
NOT_KEPT: Final = "objects_not_kept"  # by destination


def add(session: Session, counter: str, values: Mapping[str, float]) -> None:
    """Add to the tallies of one counter, by label."""
    for label, value in values.items():
        row = session.get(Tally, (counter, label), with_for_update=True)
        if row is None:
            session.add(Tally(counter=counter, label=label, value=value))
            session.flush()
        else:
            row.value += value


def of(session: Session, counter: str) -> dict[str, float]:
    """Return the tallies of one counter, by label."""
    rows = session.execute(select(Tally.label, Tally.value).where(Tally.counter == counter))
    return {row.label: row.value for row in rows}


def summed(session: Session, present: Select[str, int], counter: str) -> dict[str, float]:
    """Return by label what is there and what was removed, asked for in one statement so that no row is in both or in neither.

    Parameters
    ----------
    present
        The question for (label, number) of the rows that are there.
    """
    removed = select(Tally.label, Tally.value).where(Tally.counter == counter)
    sums: dict[str, float] = {}
    rows: Iterable[Any] = session.execute(union_all(present, removed))
    for label, number in rows:
        sums[label] = sums.get(label, 0.0) + float(number)
    return dict(sorted(sums.items()))


def total(counter: str) -> ScalarSelect[float]:
    """Return the question for the sum of one counter."""
    return select(func.coalesce(func.sum(Tally.value), 0.0)).where(Tally.counter == counter).scalar_subquery()
