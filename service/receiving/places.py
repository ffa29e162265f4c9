"""Give connections their places: to wait in, to be associated in, and room for what they send."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from service.conformance import VERIFICATION
from service.settings import Limits
from service.tls import Shown

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
    certificate: Shown | None = None  # over TLS

    @property
    def only_verifies(self) -> bool:
        """Whether nothing but C-ECHO is asked for."""
        return set(self.abstract_syntaxes) == {VERIFICATION}


@dataclass(slots=True)
class Waiting:
    """A connection that has no association yet: what to shut down so that it leaves, and where it came from."""

    connection: socket.socket
    address: str


@dataclass(slots=True)
class Places:
    """Count connections by what they may still do to us; listeners of one service share them."""

    limits: Limits
    pending: dict[socket.socket, Waiting] = field(default_factory=dict)  # by accepted socket, in the order of arrival
    associations: Counter[str] = field(default_factory=Counter)  # by address
    by_title: Counter[str] = field(default_factory=Counter)  # associations by calling AE title
    bytes_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, accepted: socket.socket, address: str) -> Waiting | None:
        """Take a place for a connection that has no association yet; return the one that has to leave for it.

        The oldest of the address that holds most places leaves, so that a flood from one address pushes out itself.
        """
        with self.lock:
            leaving = None
            if len(self.pending) >= MAXIMUM_PENDING:
                ((crowded, _),) = Counter(each.address for each in self.pending.values()).most_common(1)
                key = next(key for key, each in self.pending.items() if each.address == crowded)
                leaving = self.pending.pop(key)
            self.pending[accepted] = Waiting(accepted, address)
            return leaving

    def secured(self, accepted: socket.socket, connection: socket.socket) -> bool:
        """Replace a waiting connection by its TLS connection; False when it had to leave in the meantime."""
        with self.lock:
            waiting = self.pending.get(accepted)
            if waiting is not None:
                waiting.connection = connection
            return waiting is not None

    def left(self, accepted: socket.socket) -> None:
        """Give the waiting place back."""
        with self.lock:
            self.pending.pop(accepted, None)

    @contextmanager
    def associate(self, caller: Caller, maximum_of_peer: int | None = None) -> Iterator[bool]:
        """Hold a place among the associations; yields False where there is none."""
        title, address = caller.calling_ae_title, caller.address
        with self.lock:
            reserve = ECHO_RESERVE if caller.only_verifies else 0
            free = (
                self.associations.total() < self.limits.maximum_associations + reserve
                and self.associations[address] < self.limits.maximum_associations_per_address + reserve
                and (maximum_of_peer is None or self.by_title[title] < maximum_of_peer + reserve)
            )
            self.associations[address] += free
            self.by_title[title] += free
        try:
            yield free
        finally:
            with self.lock:
                self.associations[address] -= free
                self.by_title[title] -= free
                self.associations += Counter()  # drop who holds none
                self.by_title += Counter()

    def under_way(self, change: int) -> int:
        """Count bytes of unfinished messages; return the sum."""
        with self.lock:
            self.bytes_under_way += change
            return self.bytes_under_way
