"""Lend memory to receive films into: page-aligned, so that it can be written past the page cache, and used again and again.

A fresh page costs a fault and is filled with zeros before anybody writes to it; a film of six megabytes has 1,500 of them.
"""

import mmap
from contextlib import suppress
from typing import Final

FIRST_BYTES: Final = 8 * 1024**2  # most films fit; what is never touched takes no memory
KEPT_BYTES: Final = 16 * 1024**2  # of one piece; a larger one goes back to the system
KEPT: Final = 8  # pieces


class Pages:
    """Memory that begins at a page and grows."""

    def __init__(self) -> None:
        """Map the first pages; none of them takes memory yet."""
        self.view = _mapped(FIRST_BYTES)

    def reserve(self, count: int) -> None:
        """Have at least so many bytes; what is in them stays."""
        if count <= len(self.view):
            return
        size = len(self.view)
        while size < count:
            size *= 2
        before, self.view = self.view, _mapped(size)
        self.view[: len(before)] = before


class Lender:
    """Keep pages that nobody needs just now for the next film."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._free: list[Pages] = []

    def take(self) -> Pages:
        """Lend pages; their bytes are whatever the last film left."""
        try:
            return self._free.pop()
        except IndexError:
            return Pages()

    def give_back(self, pages: Pages) -> None:
        """Take pages back, from who is done with them for certain."""
        if len(pages.view) <= KEPT_BYTES and len(self._free) < KEPT:
            self._free.append(pages)


def _mapped(size: int) -> memoryview:
    """Map memory that goes back to the system with its last view."""
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # one fault for two megabytes
        with suppress(OSError):  # a kernel without such pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)
