"""Send audit messages to a repository: RFC 5424 records, octet-counted over TLS (RFC 5425) or plain TCP (RFC 6587)."""

import datetime as dt
import os
import socket
import ssl
from typing import Final, Self

from service.errors import Retryable
from service.settings import SyslogSettings

# PS3.15 A.6.1: facility 10 (security/authorization), severity 5 (notice): <85>; message identifier "DICOM+RFC3881".
PRIORITY: Final = 85
MESSAGE_ID: Final = "DICOM+RFC3881"
APPLICATION: Final = "carpus"
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # RFC 5424 6.4: a UTF-8 message begins with it


def record(xml: str, at: dt.datetime, *, host: str) -> bytes:
    """Return one RFC 5424 record."""
    time = at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    header = f"<{PRIORITY}>1 {time} {host} {APPLICATION} {os.getpid()} {MESSAGE_ID} - "
    return header.encode("ascii", "replace") + BYTE_ORDER_MARK + xml.encode("utf-8")


class Repository:
    """A connection to the audit repository, opened when the first record is sent.

    Raises
    ------
    Retryable
        From `send`, when the repository is away or its certificate is not trusted; the record is sent again later.
    """

    def __init__(self, settings: SyslogSettings) -> None:
        """Keep the address; nothing is opened yet."""
        self._settings = settings
        self._host = socket.gethostname() or "-"
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Use it for several records."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def send(self, xml: str, at: dt.datetime) -> None:
        """Send one record; return when the operating system has taken it."""
        framed = record(xml, at, host=self._host)
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(b"%d %b" % (len(framed), framed))
        except OSError as error:
            self.close()
            where = f"{self._settings.host}:{self._settings.port}"
            raise Retryable(
                f"the audit repository {where} does not take records: {error.strerror or type(error).__name__}",
                code="audit-repository-away",
                next_action="correct audit.syslog, or start the repository; records wait in the database meanwhile",
            ) from error

    def close(self) -> None:
        """Close the connection; the next record opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        settings = self._settings
        plain = socket.create_connection((settings.host, settings.port), timeout=settings.timeout_seconds)
        if not settings.tls:
            return plain
        context = ssl.create_default_context(cafile=str(settings.authorities) if settings.authorities else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
        return context.wrap_socket(plain, server_hostname=settings.host)
