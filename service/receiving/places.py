"""Give connections their places: to wait in, to be associated in, and room for what they send."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from service.conformance import VERIFICATION
from service.receiving.siblings import Siblings, mark
from service.settings import Limits
from service.trust.tls import Shown

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
    siblings: Siblings | None = None  # other processes of the same listener: the limits hold for all of them together
    held: list[tuple[int, int]] = field(default_factory=list)  # marks of our associations, for the siblings
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
            self._tell()
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
            self._tell()

    @contextmanager
    def associate(self, caller: Caller, maximum_of_peer: int | None = None) -> Iterator[bool]:
        """Hold a place among the associations; yields False where there is none."""
        title, address = caller.calling_ae_title, caller.address
        marks = mark(address), mark(title)
        with self.lock:
            reserve = ECHO_RESERVE if caller.only_verifies else 0
            elsewhere = list(self.siblings.others()) if self.siblings else []
            of_address = self.associations[address] + sum(each[0] == marks[0] for each in elsewhere)
            of_title = self.by_title[title] + sum(each[1] == marks[1] for each in elsewhere)
            free = (
                self.associations.total() + len(elsewhere) < self.limits.maximum_associations + reserve
                and of_address < self.limits.maximum_associations_per_address + reserve
                and (maximum_of_peer is None or of_title < maximum_of_peer + reserve)
            )
            self.associations[address] += free
            self.by_title[title] += free
            self.held += [marks] * free
            self._tell()
        try:
            yield free
        finally:
            with self.lock:
                self.associations[address] -= free
                self.by_title[title] -= free
                self.associations += Counter()  # drop who holds none
                self.by_title += Counter()
                if free:
                    self.held.remove(marks)
                self._tell()

    def load(self) -> int:
        """Return how many connections are at hand."""
        return len(self.pending) + len(self.held)

    def _tell(self) -> None:
        if self.siblings is not None:
            self.siblings.tell(self.load(), self.held)

    def under_way(self, change: int) -> int:
        """Count bytes of unfinished messages; return the sum."""
        with self.lock:
            self.bytes_under_way += change
            return self.bytes_under_way
