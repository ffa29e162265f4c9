"""Attacks on the DICOM ports."""

import socket
import ssl
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from pydicom.uid import ComputedRadiographyImageStorage as CR
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from benchmarks.attacks.house import House
from benchmarks.fuzz import seeds
from service.errors import CarpusError
from service.trust import certificates
from service.trust.tls import ClientTls
from tests import raw_peer
from tests.certificates import client_hello
from tests.raw_peer import IMPLICIT, RawPeer, associate_rq, c_store_rq, p_data

MEGABYTE = 1024**2
CLAIMED = 400 * MEGABYTE
SILENT = 100
EVIL = "../../../../tmp/carpus-evil"


class Succeeded(AssertionError):
    """An attack was not refused."""


def huge_pdu(house: House) -> str:
    """Claim 400 MB before any association, and send them."""
    with RawPeer(house.scp.port, timeout_s=20) as peer:
        return _pour(peer.socket.sendall, peer.socket.recv)


def huge_pdu_over_tls(house: House) -> str:
    """Do the same over TLS, with a good certificate."""
    with _secure(house) as secure:
        return _pour(secure.sendall, secure.recv)


def _pour(send: Callable[[bytes], None], receive: Callable[[int], bytes]) -> str:
    sent = 0
    said = "A-ABORT at the header"
    try:
        send(struct.pack(">BBI", 0x01, 0, CLAIMED))
        for _ in range(CLAIMED // MEGABYTE):
            send(bytes(MEGABYTE))
            sent += 1
    except OSError:
        return f"{said}, cut off after {sent} MB"
    with suppress(OSError):
        if receive(1) in (b"", b"\x07"):
            return f"{said}; what followed was dropped"
    raise Succeeded(f"{sent} MB were taken")


def slow_loris(house: House) -> str:
    """Send an association request byte by byte on 50 connections."""
    request = associate_rq()
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(house.scp.port, timeout_s=20)) for _ in range(50)]
        started = time.monotonic()
        for byte in request:
            for peer in peers:
                peer.send_until_closed(bytes([byte]))
            time.sleep(0.2)
            if time.monotonic() - started > 5:
                break
        if not all(peer.closed() for peer in peers):
            raise Succeeded("a connection was left open")
    return "every connection closed at the time limit of 3 s"


def slow_loris_inside(house: House) -> str:
    """Send a PDU byte by byte within an association."""
    with RawPeer(house.scp.port, timeout_s=20) as peer:
        peer.associate((CR, IMPLICIT))
        peer.send(struct.pack(">BBI", 0x04, 0, 50_000))
        started = time.monotonic()
        while time.monotonic() - started < 10:
            try:
                peer.socket.sendall(b"x")
            except OSError:
                return f"aborted after {time.monotonic() - started:.1f} s (limit 3 s)"
            time.sleep(0.2)
    raise Succeeded("10 s of trickling were borne")


def silent_peers(house: House) -> str:
    """Connect 100 times and say nothing."""
    return _silent(house.scp.port)


def silent_peers_over_tls(house: House) -> str:
    """Connect 100 times to the TLS port; half of them begin a handshake and stop."""
    return _silent(house.scp.tls_port, client_hello(0x0303)[:30])


def _silent(port: int, beginning: bytes = b"") -> str:
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(port, timeout_s=20)) for _ in range(SILENT)]
        for peer in peers[::2]:
            peer.send_until_closed(beginning)
        time.sleep(2)
        if not all(peer.closed() for peer in peers):
            raise Succeeded("a silent connection was left open")
    return f"all {SILENT} closed at the time limit of 3 s, the oldest earlier"


def wrong_certificates(house: House) -> str:
    """Show none, one of another authority, and one that has expired."""
    other, old = house.folder / "other", house.folder / "old"
    certificates.make(other, ["PACS"])
    old.mkdir(exist_ok=True)
    for name in ("authority.pem", "authority.key"):
        (old / name).write_bytes((house.folder / "tls" / name).read_bytes())
    certificates.make(old, ["PACS"], days=-1)
    ways = {
        "none": ClientTls(house.folder / "tls" / "authority.pem"),
        "another authority": house.way(where=other),
        "expired": house.way(where=old),
    }
    return "; ".join(f"{name}: {_refused(partial(house.tls_echo, way))}" for name, way in ways.items())


def downgrade(house: House) -> str:
    """Offer TLS 1.1."""
    with RawPeer(house.scp.tls_port, timeout_s=20) as peer:
        peer.send(client_hello(0x0302))
        answer = peer.socket.recv(7)
    if answer[:1] != b"\x15" or answer[5:] != b"\x02\x46":
        raise Succeeded(f"answered {answer.hex()}")
    return "fatal alert protocol_version (70)"


def spoofed_titles(house: House) -> str:
    """Use an AE title that is not listed, one from another address, and one over TLS with the certificate of another."""
    said = []
    for text, calling in (("not listed", "STRANGER"), ("listed for another address", "ELSEWHERE")):
        found = raw_peer.rejection(house.scp.port, calling=calling)
        if found is None:
            raise Succeeded(f"{calling} was admitted")
        said.append(f"{text}: A-ASSOCIATE-RJ {found[0]}/{found[1]}/{found[2]}")
    made = certificates.make(house.folder / "tls", ["OTHER"], hosts=["127.0.0.1"])
    refused = _refused(partial(house.tls_echo, house.way("OTHER")))
    return "; ".join([*said, f"certificate of {next(iter(made))}: {refused}"])


def deflated_bomb(house: House) -> str:
    """Store a data set of half a megabyte that inflates to 512 MB."""
    seed = next(seed for seed in seeds.phantoms() if seed.transfer_syntax == ExplicitVRLittleEndian)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [squeezer.compress(seed.data)]
    pieces += [squeezer.compress(bytes(MEGABYTE)) for _ in range(512)]
    bomb = b"".join([*pieces, squeezer.flush()])
    status = _store(house, seed.sop_class, seed.sop_instance, str(DeflatedExplicitVRLittleEndian), bomb)
    if status != 0xC003:
        raise Succeeded(f"{len(bomb)} bytes were answered with 0x{status:04X}")
    return f"{len(bomb) // 1024} kB sent; status 0x{status:04X}, nothing kept"


def path_uids(house: House) -> str:
    """Store a data set whose UIDs lead out of the store."""
    seed = next(seed for seed in seeds.phantoms() if seed.transfer_syntax == ExplicitVRLittleEndian)
    evil = EVIL.encode().ljust(len(seed.sop_instance), b"x")[: len(seed.sop_instance)]
    data = seed.data.replace(seed.sop_instance.encode(), evil)
    before = _files(house.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom dislikes the UID, rightly
        status = _store(house, seed.sop_class, evil.decode(), str(ExplicitVRLittleEndian), data)
    if status not in (0xC001, 0x0110, 0xA900):
        raise Succeeded(f"answered with 0x{status:04X}")
    strays = [
        p for p in _files(house.folder) - before if p.parts[len(house.folder.parts)] != "data" or "evil" in p.name
    ]
    if strays or Path("/tmp/carpus-evil").exists():  # noqa: S108 - the place the attack aims at
        raise Succeeded(f"wrote {strays}")
    return f"status 0x{status:04X}; in quarantine under its hash, nothing outside the store"


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _store(house: House, sop_class: str, sop_instance: str, syntax: str, data: bytes) -> int:
    with RawPeer(house.scp.port, timeout_s=60) as peer:
        kind, _ = peer.associate((sop_class, syntax))
        if kind != 0x02:
            raise Succeeded(f"no association: PDU {kind}")
        peer.send(p_data(1, c_store_rq(sop_class, sop_instance), command=True, last=True))
        for begin in range(0, len(data), 16_000):
            last = begin + 16_000 >= len(data)
            peer.send_until_closed(p_data(1, data[begin : begin + 16_000], command=False, last=last))
        kind, body = peer.read()
        return raw_peer.status(body) if kind == 0x04 else -kind


def _refused(call: Callable[[], object]) -> str:
    try:
        call()
    except CarpusError as error:
        return error.code
    raise Succeeded("an association came about")


@contextmanager
def _secure(house: House) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(house.folder / "tls" / "authority.pem"))
    context.load_cert_chain(house.folder / "tls" / "PACS.pem", house.folder / "tls" / "PACS.key")
    with (
        socket.create_connection(("127.0.0.1", house.scp.tls_port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        yield secure
