"""Tell the audit trail who was refused an association (PS3.15 A.5.3.11, Node Authentication), without letting the refused fill it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.auditing.messages import (
    DESTINATION_ROLE,
    SOURCE_ROLE,
    AuditMessage,
    Event,
    Outcome,
    Participant,
    ourselves,
)
from service.auditing.trail import Trail
from service.log import get_logger

INTERVAL_SECONDS: Final = 60.0  # the same refusal of the same caller is one record in this time,
MOST: Final = 60  # and all refusals together are so many; the log has each
NAMES: Final = 16  # characters of an AE title (PS3.5 table 6.2-1)

log = get_logger()


class Refusals:
    """What was refused of late, in one process.

    Parameters
    ----------
    clock
        Seconds; never goes back.
    """

    def __init__(
        self, trail: Trail, *, source: str, ae_title: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._trail = trail
        self._source = source
        self._ae_title = ae_title
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def note(self, calling_ae_title: str, address: str, code: str) -> None:
        """Write one record, unless the same was written a moment ago or too many were; a database that is away costs the record."""
        if not self._is_new((calling_ae_title, address, code)):
            return
        # What a stranger calls itself by may hold anything; XML may not.
        name = "".join(c if c.isascii() and c.isprintable() else "?" for c in calling_ae_title[:NAMES]) or "unknown"
        caller = Participant(name, requestor=True, address=address, role=SOURCE_ROLE)
        ours = ourselves(self._ae_title, process="scp", role=DESTINATION_ROLE)
        message = AuditMessage(
            Event.ASSOCIATION_REFUSED, (caller, ours), self._trail.now(), Outcome.REFUSED, detail=f"refused: {code}"
        )
        try:
            self._trail.append(message, source=self._source)
        except SQLAlchemyError as error:
            log.error("refusal not written to the audit trail", error=type(error).__name__)

    def _is_new(self, refusal: tuple[str, str, str]) -> bool:
        with self._lock:
            now = self._clock()
            while self._told and now - next(iter(self._told.values())) >= INTERVAL_SECONDS:
                self._told.popitem(last=False)
            if refusal in self._told or len(self._told) >= MOST:
                return False
            self._told[refusal] = now
            return True
