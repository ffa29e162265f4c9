"""Secure DICOM connections after BCP 195 (PS3.15 B.12): contexts for both directions, and whom a certificate stands for.

Both sides show a certificate. One that an authority signed is believed to be genuine; which AE it may speak for is said by its
names (subject CN, or a subject alternative name) and, where the settings pin it, by its fingerprint.
"""

import hashlib
import os
import ssl
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from service.errors import CarpusError, InvalidConfiguration, Permanent, Retryable
from service.settings import DestinationTls, DicomTls

# RFC 9325 4.2 for TLS 1.2; the suites of TLS 1.3 are all admitted (4.2.1).
SUITES: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
MINIMUM_VERSION: Final = ssl.TLSVersion.TLSv1_2  # RFC 8996
EXPIRY_WARNING_DAYS: Final = 30
HANDSHAKE_RECORD: Final = 0x16  # RFC 8446 5.1: the first byte of whoever begins with TLS


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that a peer showed."""

    names: frozenset[str]
    sha256: str
    expires_at: float  # seconds since 1970

    @classmethod
    def of(cls, connection: ssl.SSLSocket) -> Self:
        """Read it from a connection whose handshake is over."""
        parsed: Any = connection.getpeercert() or {}
        der = connection.getpeercert(binary_form=True) or b""
        names = {value for rdn in parsed.get("subject", ()) for name, value in rdn if name == "commonName"}
        names |= {value for _, value in parsed.get("subjectAltName", ())}
        expires_at = ssl.cert_time_to_seconds(parsed["notAfter"]) if "notAfter" in parsed else 0.0
        return cls(frozenset(names), hashlib.sha256(der).hexdigest(), expires_at)

    def stands_for(self, names: Collection[str], sha256: Collection[str]) -> bool:
        """Whether it carries one of the names and, where any are given, has one of the fingerprints."""
        return bool(self.names & set(names)) and (not sha256 or self.sha256 in sha256)


class ServerTls:
    """The context of a listener; made anew when one of its files has changed, so that renewal needs no restart."""

    def __init__(self, settings: DicomTls) -> None:
        """Read the files once, so that a fault stops the start.

        Raises
        ------
        InvalidConfiguration
            When a file is missing, or certificate and key do not belong together.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp = self._files()
        self._context = self._make()

    def context(self) -> ssl.SSLContext:
        """Return the present context; a renewal that cannot be read leaves the last good one in use."""
        with self._lock:
            stamp = self._files()
            if stamp != self._stamp:
                try:
                    self._context, self._stamp = self._make(), stamp
                except InvalidConfiguration:
                    return self._context
            return self._context

    def _make(self) -> ssl.SSLContext:
        given = self._settings
        context = _restricted(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # no resumption: every association shows its certificate
        _load(context, given.certificate, given.key, given.authorities)
        if given.revocation_list is not None:
            _load_authorities(context, given.revocation_list, "revocation_list")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def _files(self) -> tuple[tuple[int, int], ...]:
        given = self._settings
        paths = (given.certificate, given.key, given.authorities, given.revocation_list)
        return tuple(_stamp(path) for path in paths if path is not None)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How we speak to one peer over TLS.

    Parameters
    ----------
    certificate, key
        What we show; None shows nothing, which a peer after BCP 195 refuses.
    authorities
        PEM file of who may have signed the peer's certificate.
    names, sha256
        Whom the certificate must stand for; without names it must be valid for the host that is called.
    """

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: DestinationTls | None, ours: DicomTls, *, names: tuple[str, ...] = ()) -> "ClientTls | None":
        """Return what is asked for, completed from our own settings; None for plain DICOM.

        Parameters
        ----------
        names
            Whom the certificate must stand for, where `asked` says nothing of it.

        Raises
        ------
        InvalidConfiguration
            When neither names the authorities to be believed.
        """
        if asked is None:
            return None
        authorities = asked.authorities or ours.authorities
        if authorities is None:
            raise InvalidConfiguration("TLS is asked for, and neither `tls` there nor `dicom_tls` names authorities")
        return cls(
            authorities,
            asked.certificate or ours.certificate,
            asked.key or ours.key,
            asked.certificate_names or names,
            asked.certificate_sha256,
        )

    def context(self) -> "ClientContext":
        """Return a context for one association.

        Raises
        ------
        InvalidConfiguration
            When a file is missing, or certificate and key do not belong together.
        """
        context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
        _restrict(context)
        context.tls = self
        context.check_hostname = not self.names
        _load(context, self.certificate, self.key, self.authorities)
        return context


class ClientContext(ssl.SSLContext):
    """A context that remembers why a connection failed: the association itself only says that it did."""

    tls: ClientTls

    def __new__(cls, protocol: int) -> Self:
        """Make the context; its sockets report to it."""
        context = super().__new__(cls, protocol)
        context.faults = []
        context.sslsocket_class = _ReportingSocket
        return context

    faults: list[OSError]

    def judge(self, connection: ssl.SSLSocket) -> None:
        """Refuse a certificate that does not stand for the peer.

        Raises
        ------
        ssl.SSLCertVerificationError
            When it carries none of the names, or another fingerprint.
        """
        shown = Shown.of(connection)
        names = self.tls.names or tuple(shown.names)  # without names the host was checked in the handshake
        if not shown.stands_for(names, self.tls.sha256):
            raise ssl.SSLCertVerificationError(1, "certificate is not of this peer")


class _ReportingSocket(ssl.SSLSocket):
    """Tells the context what went wrong."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, then look whom the certificate stands for."""
        try:
            super().do_handshake(block)
            self._reporting().judge(self)
        except OSError as error:
            self._reporting().faults.append(error)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive; under TLS 1.3 a peer refuses our certificate only here."""
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as error:
            self._reporting().faults.append(error)
            raise

    def _reporting(self) -> ClientContext:
        context = self.context
        if not isinstance(context, ClientContext):
            raise TypeError(f"made by a {type(context).__name__}; a ClientContext is needed")
        return context


# What OpenSSL calls it (`SSLError.reason`), and what that means to an administrator.
_REASONS: Final[dict[str, tuple[str, str]]] = {
    "WRONG_VERSION_NUMBER": ("tls-peer-plain", "does not speak TLS on this port: correct the port, or leave out `tls`"),
    "UNSUPPORTED_PROTOCOL": ("tls-version", "offers no TLS 1.2 or 1.3: renew its software or its TLS profile"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("tls-version", "offers no TLS 1.2 or 1.3: renew its software or its TLS profile"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "tls-suites",
        "has no cipher suite of BCP 195 in common with us, or wants a certificate",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "tls-certificate-wanted",
        "wants a certificate from us: set dicom_tls.certificate",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "tls-certificate-refused",
        "does not know the authority of our certificate: register it there",
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("tls-certificate-refused", "refuses our certificate as expired: renew it"),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("tls-certificate-refused", "refuses our certificate as revoked: renew it"),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("tls-certificate-refused", "refuses our certificate: see its log"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("tls-certificate-refused", "refuses our certificate: see its log"),
    "TLSV1_ALERT_ACCESS_DENIED": ("tls-certificate-refused", "refuses our certificate: see its log"),
}


_NO_AUTHORITY: Final = (
    "name the authority of the peer's certificate in tls.authorities of the destination, or in dicom_tls.authorities"
)
_OTHER_NAME: Final = (
    "enter the name in the peer's certificate as tls.certificate_names of the destination, or as its host"
)
_OUT_OF_DATE: Final = "have the peer's certificate renewed, or set the clocks of both machines"
# By OpenSSL's X509_V_ERR_… (openssl-verification-options(1)): not yet valid, expired, list expired, revoked, other host, other address.
_DISBELIEVED: Final[dict[int | None, str]] = {
    **{
        9: _OUT_OF_DATE,
        10: _OUT_OF_DATE,
        12: "renew dicom_tls.revocation_list",
        23: "have the peer's certificate replaced",
    },
    **{62: _OTHER_NAME, 64: _OTHER_NAME},
    # Our own look at it (`judge`), which OpenSSL has no number for.
    None: "correct tls.certificate_names or tls.certificate_sha256 of the destination, or have the peer's certificate replaced",
}


def explain(fault: OSError, where: str) -> CarpusError:
    """Return what a failed TLS connection means: which side has to change what."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        text = getattr(fault, "verify_message", "") or str(fault.args[-1])
        return Permanent(
            f"the certificate of {where} is not believed: {text}",
            code="tls-peer-certificate",
            next_action=_DISBELIEVED.get(getattr(fault, "verify_code", None), _NO_AUTHORITY),
        )
    if isinstance(fault, ssl.SSLError) and fault.reason in _REASONS:
        code, meaning = _REASONS[fault.reason]
        return Permanent(f"{where} {meaning}", code=code, next_action=f"{where} {meaning}")
    if isinstance(fault, TimeoutError | ssl.SSLWantReadError):
        return Retryable(
            f"{where} did not finish the TLS handshake in time",
            code="tls-handshake-late",
            next_action="see whether this port of the peer speaks TLS",
        )
    reason = getattr(fault, "reason", None) or type(fault).__name__
    return Retryable(
        f"{where} broke off the TLS handshake ({reason})",
        code="tls-broken-off",
        next_action="see whether this port of the peer speaks TLS and whether it admits our certificate",
    )


def _restricted(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    _restrict(context)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = MINIMUM_VERSION
    context.set_ciphers(":".join(SUITES))
    # RFC 9325 3.3, 3.5: neither compression nor renegotiation.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


def web_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for pages: the same versions and suites, and no certificate asked of the visitor.

    Raises
    ------
    InvalidConfiguration
        When a file is missing, or certificate and key do not belong together.
    """
    context = _restricted(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key, None)
    return context


def _load(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authorities: Path | None) -> None:
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_pass_phrase)
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(
                f"certificate {certificate} with key {key}: {_cause(error)}",
                next_action="`carpus tls show FILE` says what a certificate holds",
            ) from error
    if authorities is not None:
        _load_authorities(context, authorities, "authorities")


def _load_authorities(context: ssl.SSLContext, path: Path, setting: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"{setting} {path}: {_cause(error)}") from error


def _no_pass_phrase() -> str:
    raise ValueError("the key is encrypted; one without a pass phrase is needed, readable by this user alone")


def _cause(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - one call for both
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)
