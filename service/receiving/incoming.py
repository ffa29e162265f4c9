"""Take in the data set of one C-STORE request where its file will be written from.

The stream of PDUs is read straight behind what has come so far, and each fragment moves up over the headers between (PS3.8 9.3.5),
so that at the end the file lies in one piece: preamble, file meta information, data set.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID

from service.receiving.c_store import StoreRequest
from service.receiving.memory import Pages

AT_ONCE: Final = 1024**2  # bytes that are read at once; a PDU is no longer
P_DATA: Final = 0x04
COMMAND: Final = 1  # bit 0 of a fragment's control header: of a command (PS3.8 E.2)
LAST: Final = 2  # bit 1: the last one of a command or data set
PDU_HEADER: Final = struct.Struct(">BxI")
FRAGMENT_HEADER: Final = struct.Struct(">IBB")


class Malformed(Exception):
    """The stream is not what may come inside a data set."""

    def __init__(self, event: str, **fields: Any) -> None:
        """Keep what is logged of it."""
        super().__init__(event)
        self.event, self.fields = event, fields


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance as it came, and what the association and the request say of it.

    `file` is a whole PS3.10 file, whose data set begins at `data_at`.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    transfer_syntax: UID
    calling_ae_title: str
    called_ae_title: str
    address: str
    file: memoryview
    data_at: int

    @property
    def data(self) -> memoryview:
        """The data set as it was sent."""
        return self.file[self.data_at :]


class Incoming:
    """The fragments of one data set until the last one is there.

    Parameters
    ----------
    request, context_id
        What it belongs to; every fragment must be of the same presentation context.
    pages
        Memory of this film alone.
    head
        What the file begins with.
    maximum_pdu_bytes, maximum_bytes
        Limits of a PDU, beside its header, and of the data set.
    """

    def __init__(
        self,
        request: StoreRequest,
        context_id: int,
        pages: Pages,
        head: bytes,
        *,
        maximum_pdu_bytes: int,
        maximum_bytes: int,
    ) -> None:
        self.request, self.context_id = request, context_id
        self.pages = pages
        self.data_at = len(head)
        self.complete = False
        self._maximum_pdu_bytes, self._maximum_bytes = maximum_pdu_bytes, maximum_bytes
        pages.reserve(len(head))
        pages.view[: len(head)] = head
        self._filled = self._begin = self._end = len(head)  # of the file; of the stream, where it is unread

    def room(self) -> memoryview:
        """Return where the stream goes on; `received` says how much of it came."""
        self.pages.reserve(self._end + AT_ONCE)
        return self.pages.view[self._end : self._end + AT_ONCE]

    def received(self, count: int) -> bool:
        """Take so many bytes more of the stream; return whether a PDU of it came to its end.

        Raises
        ------
        Malformed
            When a PDU or a fragment breaks the protocol or passes a limit.
        """
        self._end += count
        before = self._begin
        while self._end - self._begin >= 6 and not self.complete:
            kind, length = PDU_HEADER.unpack_from(self.pages.view, self._begin)
            if kind != P_DATA:
                break
            if length > self._maximum_pdu_bytes:
                raise Malformed("PDU longer than the limit", pdu_type=kind, bytes=length, limit=self._maximum_pdu_bytes)
            if self._begin + 6 + length > self._end:
                break
            self._begin += 6
            self._take(self._begin + length)
        ended = self._begin > before
        if self._begin == self._end:
            self._begin = self._end = self._filled
        elif self._begin - self._filled > AT_ONCE:  # fragments of few bytes: the headers between them are no data set
            rest = self._end - self._begin
            self.pages.view[self._filled : self._filled + rest] = self.pages.view[self._begin : self._end]
            self._begin, self._end = self._filled, self._filled + rest
        return ended

    @property
    def other(self) -> bool:
        """Whether what comes next is no P-DATA-TF: the data set will not be completed, or nothing more belongs to it."""
        return self._begin < self._end and self.pages.view[self._begin] != P_DATA

    @property
    def rest(self) -> bytearray:
        """What has been read and does not belong to the data set."""
        return bytearray(self.pages.view[self._begin : self._end])

    @property
    def file(self) -> memoryview:
        """The file as far as it has come."""
        return self.pages.view[: self._filled]

    def _take(self, stop: int) -> None:
        """Move the fragments of one PDU, which ends at `stop`, up to what has come before."""
        view, at = self.pages.view, self._begin
        if at == stop:
            raise Malformed("P-DATA-TF without a fragment")
        while at < stop:
            if at + 6 > stop:
                raise Malformed("fragment does not fit into its PDU", bytes=stop - at, limit=6)
            size, context_id, control = FRAGMENT_HEADER.unpack_from(view, at)
            if size < 2 or at + 4 + size > stop:
                raise Malformed("fragment does not fit into its PDU", bytes=size, limit=stop - at - 4)
            if context_id != self.context_id or control & COMMAND or self.complete:
                raise Malformed("fragment of another message inside a data set", context=context_id, control=control)
            view[self._filled : self._filled + size - 2] = view[at + 6 : at + 4 + size]
            self._filled += size - 2
            self.complete = bool(control & LAST)
            at += 4 + size
        self._begin = stop
        if self._filled - self.data_at > self._maximum_bytes:
            raise Malformed(
                "data set longer than the limit", bytes=self._filled - self.data_at, limit=self._maximum_bytes
            )
