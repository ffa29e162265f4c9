"""Speak to a DICOM listener byte by byte, as pynetdicom would not: to be rejected, to be rude, to stop half-way."""

import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLICIT = "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"


def associate_rq(
    called: str = "CARPUS",
    calling: str = "PACS",
    contexts: Sequence[tuple[str, str]] = ((VERIFICATION, IMPLICIT),),
    *,
    version: int = 1,
    application_context: str = APPLICATION_CONTEXT,
    maximum_length: int = 16_384,
) -> bytes:
    """Build an A-ASSOCIATE-RQ (PS3.8 9.3.2); context IDs are 1, 3, 5 …"""
    items = _item(0x10, application_context.encode())
    for number, (abstract, transfer) in enumerate(contexts):
        body = bytes([2 * number + 1, 0, 0, 0]) + _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        items += _item(0x20, body)
    items += _item(0x50, _item(0x51, struct.pack(">I", maximum_length)) + _item(0x52, b"1.2.3.4"))
    fixed = struct.pack(">HH16s16s32x", version, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    return pdu(0x01, fixed + items)


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Build a PDU; `length` lies about it."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def p_data(context_id: int, payload: bytes, *, command: bool, last: bool) -> bytes:
    """Build a P-DATA-TF of one fragment (PS3.8 9.3.5, E.2)."""
    control = (1 if command else 0) | (2 if last else 0)
    return pdu(0x04, struct.pack(">IBB", len(payload) + 2, context_id, control) + payload)


def command_set(**elements: object) -> bytes:
    """Encode a command set (PS3.7 6.3.1: implicit VR little endian)."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    body = encode(ds, True, True)
    assert body is not None
    group = Dataset()
    group.CommandGroupLength = len(body)
    head = encode(group, True, True)
    assert head is not None
    return head + body


def c_store_rq(sop_class: str, sop_instance: str, message_id: int = 1) -> bytes:
    """Encode the command of a C-STORE request."""
    return command_set(
        AffectedSOPClassUID=sop_class,
        CommandField=0x0001,
        MessageID=message_id,
        Priority=0,
        CommandDataSetType=0x0001,
        AffectedSOPInstanceUID=sop_instance,
    )


class RawPeer:
    """A TCP connection that sends what it is told and reads PDUs."""

    def __init__(self, port: int, *, timeout_s: float = 10) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_until_closed(self, data: bytes) -> None:
        """Send what the other side may refuse by closing."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; (0, b"") when the connection is closed."""
        header = self._take(6)
        if len(header) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", header)
        return kind, self._take(length)

    def associate(self, *contexts: tuple[str, str], called: str = "CARPUS", calling: str = "PACS") -> tuple[int, bytes]:
        """Send an A-ASSOCIATE-RQ and return the answer."""
        self.send(associate_rq(called, calling, contexts or ((VERIFICATION, IMPLICIT),)))
        return self.read()

    def closed(self) -> bool:
        """Whether the other side ended the connection, by FIN or reset, within the timeout."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece
        return data


def rejection(port: int, **options: str) -> tuple[int, int, int] | None:
    """Ask for an association; return result, source and reason of the A-ASSOCIATE-RJ, None when it was not rejected."""
    with RawPeer(port) as peer:
        kind, body = peer.associate(**options)
        return (body[1], body[2], body[3]) if kind == 0x03 else None


def echo(port: int) -> float:
    """Associate, send C-ECHO, release; return the seconds it took."""
    started = time.monotonic()
    with RawPeer(port) as peer:
        assert peer.associate()[0] == 0x02
        request = command_set(
            AffectedSOPClassUID=VERIFICATION, CommandField=0x0030, MessageID=1, CommandDataSetType=0x0101
        )
        peer.send(p_data(1, request, command=True, last=True))
        assert status(peer.read()[1]) == 0x0000
        peer.send(pdu(0x05, bytes(4)))
        assert peer.read()[0] == 0x06
    return time.monotonic() - started


def status(body: bytes) -> int:
    """Return the Status (0000,0900) of a response, from the body of its P-DATA-TF (PS3.7 E.1)."""
    position = body.index(bytes([0x00, 0x00, 0x00, 0x09, 0x02, 0x00, 0x00, 0x00]))
    return int.from_bytes(body[position + 8 : position + 10], "little")


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body
