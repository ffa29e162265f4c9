"""Certificates for the tests: one authority a run, and what a listener or a caller needs of it."""

import atexit
import shutil
import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from service.settings import DicomTls
from service.trust import certificates
from service.trust.tls import ClientTls

LOOPBACK = ("127.0.0.1", "localhost")


def _kept(prefix: str) -> Path:
    """Return a folder that lasts as long as this process."""
    made = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def folder() -> Path:
    """Return the folder of the authority, with certificates for CARPUS, PACS and OTHER."""
    made = _kept("carpus-certificates-")
    certificates.make(made, ["CARPUS", "PACS", "OTHER"], hosts=LOOPBACK)
    return made


@cache
def expired() -> Path:
    """Return a certificate for PACS of the same authority that is no longer valid."""
    made = _kept("carpus-expired-")
    for suffix in ("pem", "key"):
        name = f"{certificates.AUTHORITY}.{suffix}"
        (made / name).write_bytes((folder() / name).read_bytes())
    certificates.make(made, ["PACS"], days=-1, hosts=LOOPBACK)
    return made


@cache
def strangers() -> Path:
    """Return the folder of another authority, with a certificate for PACS."""
    made = _kept("carpus-strangers-")
    certificates.make(made, ["PACS", "CARPUS"], hosts=LOOPBACK)
    return made


def ours(name: str = "CARPUS", *, port: int | None = 2762, where: Path | None = None, **more: Any) -> DicomTls:
    """Return settings that show the certificate of a name."""
    at = where or folder()
    return DicomTls(
        certificate=at / f"{name}.pem",
        key=at / f"{name}.key",
        authorities=folder() / "authority.pem",
        port=port,
        **more,
    )


def theirs(name: str | None = "PACS", *, where: Path | None = None, **more: Any) -> ClientTls:
    """Return how a caller shows the certificate of a name; None shows nothing."""
    at = where or folder()
    shown = (at / f"{name}.pem", at / f"{name}.key") if name else (None, None)
    return ClientTls(folder() / "authority.pem", *shown, **more)


def client_context(name: str | None = "PACS", *, where: Path | None = None) -> ssl.SSLContext:
    """Return a plain context of the standard library for raw connections."""
    at = where or folder()
    context = ssl.create_default_context(cafile=str(folder() / "authority.pem"))
    if name:
        context.load_cert_chain(at / f"{name}.pem", at / f"{name}.key")
    return context


def client_hello(version: int = 0x0302) -> bytes:
    """Build a ClientHello that offers no more than this version (RFC 4346 7.4.1.2); 0x0302 is TLS 1.1."""
    suites = bytes.fromhex("c009c013002f0035")  # of CBC mode, as TLS 1.1 knew them
    body = version.to_bytes(2, "big") + bytes(32) + b"\0" + len(suites).to_bytes(2, "big") + suites + b"\x01\0"
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake
