"""Write together what waits at the same time: one transaction, one flush of the disk, for all of it.

Films come in on several associations at once, and each waits for its own commit. While one commit runs, those that come in
meanwhile gather, and the next commit takes them all: those too that come while it waits for another process to be done writing.
Nobody waits for company: who finds nothing under way begins at once.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from service.errors import Retryable

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST: Final = 32  # in one transaction: others want to write too


class Interrupted(Retryable):
    """The thread that wrote for others was ended from outside; whether the row is there, only the database knows."""

    code = "interrupted"


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    """One item and what became of it."""

    item: Item
    done: threading.Event = field(default_factory=threading.Event)  # written, failed, or to lead now
    results: list[Result] = field(default_factory=list)  # one, once it is written
    error: Exception | None = None
    settled: bool = False


class Together(Generic[Item, Result]):
    """Gather items of several threads; one of them writes for all.

    Parameters
    ----------
    write
        Begins a transaction, asks only then for the items to write, and returns a result for each; all or none of them is written.
    alone
        An error that concerns one item and not the others: they are written one by one then, so that each gets its own outcome.
    """

    def __init__(
        self, write: Callable[[Callable[[], Sequence[Item]]], Sequence[Result]], *, alone: type[Exception]
    ) -> None:
        """Begin with nothing to write."""
        self._write = write
        self._alone = alone
        self._waiting: list[_Entry[Item, Result]] = []
        self._leading = False
        self._lock = threading.Lock()

    def __call__(self, item: Item) -> Result:
        """Write one item, with others where there are some; return its result or raise its error."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            self._waiting.append(entry)
            follows, self._leading = self._leading, True
        if follows:
            self._wait(entry)
        if not entry.settled:
            self._lead()
        if entry.error is not None:
            raise entry.error
        return entry.results[0]

    def _wait(self, entry: _Entry[Item, Result]) -> None:
        """Wait until one's own is written, or until it is one's turn to lead."""
        try:
            entry.done.wait()
        except BaseException:  # this thread is being ended; nobody may wait for it
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    if entry.done.is_set():
                        self._hand_over()
            raise

    def _lead(self) -> None:
        """Write what waits, the oldest first, which is our own; then let the next one lead."""
        batch: list[_Entry[Item, Result]] = []
        try:
            self._settle(batch)
        finally:
            self._take(batch)
            for entry in batch:
                # Neither: this thread is being ended, which is no reason to end those that wait for it.
                if not entry.results and entry.error is None:
                    entry.error = Interrupted(f"the thread that wrote {len(batch)} at once was ended")
                entry.settled = True
                entry.done.set()
            with self._lock:
                self._hand_over()

    def _take(self, batch: list[_Entry[Item, Result]]) -> None:
        """Put what waits into a batch that has nothing yet."""
        with self._lock:
            if not batch:
                batch[:], self._waiting = self._waiting[:MOST], self._waiting[MOST:]

    def _hand_over(self) -> None:
        """Let the one that has waited longest lead; nobody where nobody waits. Called with the lock held."""
        self._leading = bool(self._waiting)
        if self._waiting:
            self._waiting[0].done.set()

    def _settle(self, batch: list[_Entry[Item, Result]]) -> None:
        """Write a batch, which is taken from what waits where it is empty, and note the outcome of each."""

        def items() -> Sequence[Item]:
            self._take(batch)
            return [entry.item for entry in batch]

        try:
            results = self._write(items)
            for entry, result in zip(batch, results, strict=True):
                entry.results.append(result)
        except self._alone as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for entry in batch:
                self._settle([entry])
        except Exception as error:  # noqa: BLE001 - each of the waiting threads gets it
            self._take(batch)
            for entry in batch:
                entry.error = error
