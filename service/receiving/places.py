"""Give connections their places: to wait in, to be associated in, and room for what they send."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from service.conformance import VERIFICATION
from service.settings import Limits

MAXIMUM_PENDING: Final = 64  # connections that have not sent their A-ASSOCIATE-RQ
ECHO_RESERVE: Final = 8  # associations beyond the limit for peers that ask for Verification alone
INSTANCES_UNDER_WAY: Final = 4  # how many instances of the largest size may be under way at once, all peers together


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association, and what for."""

    called_ae_title: str
    calling_ae_title: str
    address: str
    abstract_syntaxes: tuple[str, ...]

    @property
    def only_verifies(self) -> bool:
        """Whether nothing but C-ECHO is asked for."""
        return set(self.abstract_syntaxes) == {VERIFICATION}


@dataclass(slots=True)
class Places:
    """Count connections by what they may still do to us."""

    limits: Limits
    pending: dict[socket.socket, float] = field(default_factory=dict)  # in the order of their arrival
    associations: Counter[str] = field(default_factory=Counter)  # by address
    bytes_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, connection: socket.socket) -> socket.socket | None:
        """Take a place for a connection that has said nothing yet; return the one that has to leave for it."""
        with self.lock:
            oldest = next(iter(self.pending)) if len(self.pending) >= MAXIMUM_PENDING else None
            if oldest is not None:
                del self.pending[oldest]
            self.pending[connection] = time.monotonic()
            return oldest

    def spoke(self, connection: socket.socket) -> None:
        """Give the waiting place back."""
        with self.lock:
            self.pending.pop(connection, None)

    @contextmanager
    def associate(self, caller: Caller) -> Iterator[bool]:
        """Hold a place among the associations; yields False where there is none."""
        with self.lock:
            reserve = ECHO_RESERVE if caller.only_verifies else 0
            free = (
                self.associations.total() < self.limits.maximum_associations + reserve
                and self.associations[caller.address] < self.limits.maximum_associations_per_address + reserve
            )
            self.associations[caller.address] += free
        try:
            yield free
        finally:
            with self.lock:
                self.associations[caller.address] -= free
                self.associations += Counter()  # drop addresses that hold none

    def under_way(self, change: int) -> int:
        """Count bytes of unfinished messages; return the sum."""
        with self.lock:
            self.bytes_under_way += change
            return self.bytes_under_way
