"""Take in the data set of one C-STORE request where its file will be written from.

The stream of PDUs is read so that the data of its fragments (PS3.8 9.3.5) falls behind what has come so far and the headers between
fall elsewhere: senders cut a data set into PDUs of one length, so that the next ones can be foreseen. What comes otherwise is moved.
At the end the file lies in one piece: preamble, file meta information, data set.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID

from service.receiving.c_store import StoreRequest
from service.receiving.digests import Running
from service.receiving.memory import Pages

AT_ONCE: Final = 1024**2  # bytes that are read at once
P_DATA: Final = 0x04
COMMAND: Final = 1  # bit 0 of a fragment's control header: of a command (PS3.8 E.2)
LAST: Final = 2  # bit 1: the last one of a command or data set
PDU_HEADER: Final = struct.Struct(">BxI")
FRAGMENT_HEADER: Final = struct.Struct(">IBB")
_HEADER_BYTES: Final = PDU_HEADER.size + FRAGMENT_HEADER.size  # between the data of two PDUs of one fragment each
_FORESEEN: Final = 64  # PDUs at most that are read at once
_SHORTEST_FORESEEN: Final = 2048  # bytes of data in each; shorter ones are read as they come and moved
_UNFORESEEN_BYTES: Final = 64 * 1024  # read at once of them
_DIGESTED_AT_ONCE: Final = 256 * 1024  # bytes: what the processor still has at hand


class Malformed(Exception):
    """The stream is not what may come inside a data set."""

    def __init__(self, event: str, **fields: Any) -> None:
        """Keep what is logged of it."""
        super().__init__(event)
        self.event, self.fields = event, fields


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance as it came, and what the association and the request say of it.

    `file` is a whole PS3.10 file, whose data set begins at `data_at` and has this digest.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    transfer_syntax: UID
    calling_ae_title: str
    called_ae_title: str
    address: str
    file: memoryview
    data_at: int
    digest: str

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
        self._filled = self._digested = len(head)  # of the file
        self._running = Running()
        self._pdu_length = 0
        self._pdu_left = self._fragment_left = 0  # bytes to come of the PDU and of the data of the fragment under way
        self._last = False  # whether that fragment is the last one
        self._unread = bytearray()  # of the stream: less than a header, or what is not ours
        self._foreseen = 0  # bytes of data in each PDU to come, if they are like the one before; 0 where nobody knows
        self._foreseen_header = b""
        self._headers = memoryview(bytearray(_FORESEEN * _HEADER_BYTES))
        self._room: list[memoryview] = []  # lent to be read into
        self._in_place = False  # whether that is where the data belongs

    def room(self) -> list[memoryview]:
        """Return where the stream goes on, piece by piece; `received` says how much of it came."""
        first = 0 if self._unread else min(self._fragment_left, AT_ONCE)
        between = not self._unread and self._pdu_left == first and not (first and self._last)
        count = min((AT_ONCE - first) // self._foreseen, _FORESEEN) if between and self._foreseen else 0
        self._in_place = bool(first or count)
        if not self._in_place:
            self._room = [memoryview(bytearray(_UNFORESEEN_BYTES))]
            return self._room
        at = self._filled + first
        self.pages.reserve(at + count * self._foreseen)
        view = self.pages.view
        self._room = [view[self._filled : at]] if first else []
        for number in range(count):
            self._room.append(self._headers[number * _HEADER_BYTES : (number + 1) * _HEADER_BYTES])
            self._room.append(view[at : at + self._foreseen])
            at += self._foreseen
        return self._room

    def received(self, count: int) -> bool:
        """Take so many bytes more of the stream; return whether a PDU of it came to its end.

        Raises
        ------
        Malformed
            When a PDU or a fragment breaks the protocol or passes a limit.
        """
        room, self._room = self._room, []
        ended = self._taken_in_place(room, count) if self._in_place else self._taken(room, count)
        size = self._filled - self.data_at
        if size > self._maximum_bytes:
            raise Malformed("data set longer than the limit", bytes=size, limit=self._maximum_bytes)
        if self.complete or self._filled - self._digested >= _DIGESTED_AT_ONCE:
            with self.pages.view[self._digested : self._filled] as fresh:
                self._running.update(fresh)
            self._digested = self._filled
        return ended

    @property
    def other(self) -> bool:
        """Whether what comes next is no P-DATA-TF: the data set will not be completed, or nothing more belongs to it."""
        return bool(self._unread) and not self._pdu_left and self._unread[0] != P_DATA

    @property
    def rest(self) -> bytearray:
        """What has been read and does not belong to the data set."""
        return bytearray(self._unread)

    @property
    def file(self) -> memoryview:
        """The file as far as it has come."""
        return self.pages.view[: self._filled]

    @property
    def digest(self) -> str:
        """That of the data set, once it is complete."""
        return self._running.digest()

    def _taken_in_place(self, room: list[memoryview], count: int) -> bool:
        """Take what was read where it belongs, as far as it is what was foreseen; return whether a PDU ended."""
        at, ended = 0, False
        if self._fragment_left:
            here = min(count, len(room[0]))
            ended = self._filled_by(here)
            at, count = 1, count - here
        while count:
            if count < _HEADER_BYTES or room[at] != self._foreseen_header:
                return self._taken(room[at:], count) or ended
            self._pdu_left = self._fragment_left = self._foreseen
            here = min(count - _HEADER_BYTES, self._foreseen)
            ended = self._filled_by(here) or ended
            at, count = at + 2, count - _HEADER_BYTES - here
        return ended

    def _taken(self, room: list[memoryview], count: int) -> bool:
        """Take what was read in a row: look at the headers and move the data; return whether a PDU ended."""
        for piece in room:
            self._unread += piece[:count]
            count -= min(count, len(piece))
        at, end, ended = 0, len(self._unread), False
        while at < end:
            if self._fragment_left:
                here = min(end - at, self._fragment_left)
                self.pages.reserve(self._filled + here)
                self.pages.view[self._filled : self._filled + here] = self._unread[at : at + here]
                ended = self._filled_by(here) or ended
                at += here
            elif self._pdu_left:
                if self._pdu_left < FRAGMENT_HEADER.size:
                    text = "fragment does not fit into its PDU"
                    raise Malformed(text, bytes=self._pdu_left, limit=FRAGMENT_HEADER.size)
                if end - at < FRAGMENT_HEADER.size:
                    break
                ended = self._begun(*FRAGMENT_HEADER.unpack_from(self._unread, at)) or ended
                at += FRAGMENT_HEADER.size
            elif self.complete or self._unread[at] != P_DATA or end - at < PDU_HEADER.size:
                break
            else:
                _, self._pdu_length = PDU_HEADER.unpack_from(self._unread, at)
                limit = self._maximum_pdu_bytes
                if self._pdu_length > limit:
                    raise Malformed("PDU longer than the limit", pdu_type=P_DATA, bytes=self._pdu_length, limit=limit)
                if not self._pdu_length:
                    raise Malformed("P-DATA-TF without a fragment")
                self._pdu_left = self._pdu_length
                at += PDU_HEADER.size
        del self._unread[:at]
        return ended

    def _begun(self, size: int, context_id: int, control: int) -> bool:
        """Begin with a fragment by its header; return whether its PDU has ended with that, the fragment being empty."""
        behind = self._pdu_left - 4 - size  # the length of a fragment does not count itself
        if size < 2 or behind < 0:
            raise Malformed("fragment does not fit into its PDU", bytes=size, limit=self._pdu_left - 4)
        self._last = bool(control & LAST)
        if context_id != self.context_id or control & COMMAND or (self._last and behind):
            raise Malformed("fragment of another message inside a data set", context=context_id, control=control)
        self._pdu_left -= FRAGMENT_HEADER.size
        self._fragment_left = size - 2
        alone = self._pdu_left + FRAGMENT_HEADER.size == self._pdu_length and not behind
        self._foreseen = self._fragment_left if alone and self._fragment_left >= _SHORTEST_FORESEEN else 0
        if self._foreseen:
            pdu = PDU_HEADER.pack(P_DATA, self._pdu_length)
            self._foreseen_header = pdu + FRAGMENT_HEADER.pack(size, context_id, 0)
        return self._filled_by(0)

    def _filled_by(self, count: int) -> bool:
        """Count data of the fragment under way as part of the file; return whether its PDU has ended."""
        self._filled += count
        self._pdu_left -= count
        self._fragment_left -= count
        self.complete = self._last and not self._fragment_left
        return not self._pdu_left
