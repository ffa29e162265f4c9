"""Let the processes of one listener count together: each tells the others in shared memory whom it serves.

Every process writes its own region alone and reads those of the others without a lock; a torn read is off by one association
for a moment, which the limits can bear. The memory is inherited by fork and ends with the last process.
"""

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

CAPACITY: Final = 1024  # associations of one process that can be told
_HEADER: Final = struct.Struct("=II")  # connections at hand, associations listed
_ENTRY: Final = struct.Struct("=II")  # of address and AE title
_REGION: Final = _HEADER.size + CAPACITY * _ENTRY.size


def mark(text: str) -> int:
    """Return the number that stands for an address or an AE title."""
    return zlib.crc32(text.encode())


@dataclass(slots=True)
class Siblings:
    """What the processes of one listener know of each other.

    Parameters
    ----------
    processes
        How many there are.
    index
        Which of them this one is; set after the fork.
    """

    processes: int
    index: int = 0
    memory: mmap.mmap = field(init=False)

    def __post_init__(self) -> None:
        """Make the shared memory, all zero."""
        self.memory = mmap.mmap(-1, self.processes * _REGION)

    def tell(self, load: int, associations: Iterable[tuple[int, int]]) -> None:
        """Write down our connections at hand and, by marks of address and AE title, our associations."""
        entries = list(associations)[:CAPACITY]
        start = self.index * _REGION
        body = b"".join(_ENTRY.pack(*entry) for entry in entries)
        self.memory[start : start + _HEADER.size + len(body)] = _HEADER.pack(load, len(entries)) + body

    def others(self) -> Iterator[tuple[int, int]]:
        """Yield the marks of address and AE title of every association of the other processes."""
        for index in self._other_indices():
            start = index * _REGION
            count = min(_HEADER.unpack_from(self.memory, start)[1], CAPACITY)
            for entry in range(count):
                address, title = _ENTRY.unpack_from(self.memory, start + _HEADER.size + entry * _ENTRY.size)
                yield address, title

    def least_load(self) -> int | None:
        """Return how many connections the least busy other process has; None when there is no other."""
        loads = [_HEADER.unpack_from(self.memory, index * _REGION)[0] for index in self._other_indices()]
        return min(loads, default=None)

    def _other_indices(self) -> list[int]:
        return [index for index in range(self.processes) if index != self.index]
