"""Leave a destination alone that keeps failing, and find out when it works again: one circuit breaker for each.

*Closed*: results are sent. After a number of passing failures in a row it *opens*: nothing is sent, the results wait in order.
When the probe is due it is *half-open* for one C-ECHO; an answer closes it and everything that waited goes on, silence opens it
again for twice as long. The state is in the database, so all workers and the page see the same.
"""

import datetime as dt
from collections.abc import Callable, Sequence

from sqlalchemy import and_, bindparam, or_, select, update

from service.errors import CarpusError, Postponed
from service.ledger import Ledger
from service.log import get_logger
from service.settings import BreakerSettings
from service.tables import Breaker, BreakerState

log = get_logger()

PROBE_LASTS = dt.timedelta(minutes=2)  # who began a probe and has not told its end by then has died
CODE = "destination-unavailable"
_OF = select(Breaker).where(Breaker.destination == bindparam("destination"))  # asked for every delivery


class Breakers:
    """The breakers of all destinations.

    Parameters
    ----------
    ledger
        Lends its engine and its clock.
    """

    def __init__(self, ledger: Ledger, settings: BreakerSettings) -> None:
        self._ledger = ledger
        self._settings = settings

    def all(self) -> Sequence[Breaker]:
        """Return every breaker that has ever counted a failure, by name."""
        with self._ledger._read() as session:
            return tuple(session.scalars(select(Breaker).order_by(Breaker.destination)))

    def check(self, destination: str) -> None:
        """Return when results may be sent there.

        Raises
        ------
        Postponed
            While the breaker is not closed, with the cause that opened it.
        """
        row = self._get(destination)
        if row is None or row.state == BreakerState.CLOSED:
            return
        now = self._ledger.now()
        wait = self._settings.probe_seconds if row.probe_at is None else (row.probe_at - now).total_seconds()
        since = f" since {row.opened_at:%Y-%m-%d %H:%M} UTC" if row.opened_at else ""
        raise Postponed(
            f"{destination} is not sent to{since}: {row.cause_text}",
            seconds=max(wait, self._settings.probe_seconds),
            code=CODE,
            next_action=row.next_action or "",
        )

    def succeeded(self, destination: str) -> bool:
        """Note that the destination answered; True when that closed its breaker."""
        row = self._get(destination)
        if row is None or (row.state == BreakerState.CLOSED and row.failures == 0):
            return False
        with self._ledger._write() as session:
            fresh = {"state": BreakerState.CLOSED, "failures": 0, "probes": 0, "opened_at": None, "probe_at": None}
            cause = {"cause_code": None, "cause_text": None, "next_action": None, "updated_at": self._ledger.now()}
            session.execute(update(Breaker).where(Breaker.destination == destination).values(**fresh, **cause))
        if row.state != BreakerState.CLOSED:
            log.warning("destination answers again", destination=destination)
        return row.state != BreakerState.CLOSED

    def failed(self, destination: str, error: CarpusError) -> None:
        """Count a passing failure; one too many opens the breaker."""
        now = self._ledger.now()
        with self._ledger._write() as session:
            row = session.get(Breaker, destination, with_for_update=True)
            if row is None:
                row = Breaker(destination=destination, state=BreakerState.CLOSED, failures=0, probes=0, updated_at=now)
                session.add(row)
            row.failures += 1
            row.updated_at = now
            row.cause_code, row.cause_text, row.next_action = error.code, str(error), error.next_action
            if row.state == BreakerState.CLOSED and row.failures >= self._settings.failures:
                row.state, row.opened_at, row.probes = BreakerState.OPEN, now, 0
                row.probe_at = now + dt.timedelta(seconds=self._settings.probe_seconds)
                log.error("destination left alone", destination=destination, code=error.code, failures=row.failures)

    def probe_due(self, probe: Callable[[str], CarpusError | None]) -> list[str]:
        """Try each destination whose probe is due; return those that answer again.

        Parameters
        ----------
        probe
            Returns what keeps the destination, given by its name, from answering; None when it answers.
        """
        return [name for name in self._due() if self._begin(name) and self._end(name, probe(name))]

    def _due(self) -> Sequence[str]:
        now = self._ledger.now()
        waiting = and_(Breaker.state == BreakerState.OPEN, Breaker.probe_at <= now)
        forgotten = and_(Breaker.state == BreakerState.HALF_OPEN, Breaker.updated_at < now - PROBE_LASTS)
        with self._ledger._read() as session:
            return tuple(session.scalars(select(Breaker.destination).where(or_(waiting, forgotten))))

    def _begin(self, destination: str) -> bool:
        """Take the probe; False when another worker was faster."""
        now = self._ledger.now()
        with self._ledger._write() as session:
            row = session.get(Breaker, destination, with_for_update=True)
            mine = row is not None and (
                (row.state == BreakerState.OPEN and row.probe_at is not None and row.probe_at <= now)
                or (row.state == BreakerState.HALF_OPEN and row.updated_at < now - PROBE_LASTS)
            )
            if row is not None and mine:
                row.state, row.updated_at = BreakerState.HALF_OPEN, now
            return mine

    def _end(self, destination: str, error: CarpusError | None) -> bool:
        if error is None:
            return self.succeeded(destination)
        now = self._ledger.now()
        with self._ledger._write() as session:
            row = session.get_one(Breaker, destination, with_for_update=True)
            row.state, row.updated_at, row.probes = BreakerState.OPEN, now, row.probes + 1
            wait = min(self._settings.longest_probe_seconds, self._settings.probe_seconds * 2.0 ** min(row.probes, 30))
            row.probe_at = now + dt.timedelta(seconds=wait)
            row.cause_code, row.cause_text, row.next_action = error.code, str(error), error.next_action
        return False

    def _get(self, destination: str) -> Breaker | None:
        with self._ledger._read() as session:
            return session.scalars(_OF, {"destination": destination}).one_or_none()
