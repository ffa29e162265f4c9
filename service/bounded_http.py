"""HTTP answers that end: taken whole before a deadline and within a limit of bytes, however they drip or swell; no redirect is followed.

A time limit of the library holds for each piece that comes from the network; a server that sends one byte now and then, in the
status line or a header as well as in the body, is never late by it.
"""

import io
import socket
from collections.abc import Callable
from functools import partial
from http.client import HTTPResponse
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

CHUNK: Final = 2**16


class TooLarge(requests.RequestException):
    """An answer with more bytes than anything that was asked for has."""


class Bounded(HTTPAdapter):
    """What a session sends through, instead of the library's own; the answer's body has been read when it returns.

    Parameters
    ----------
    seconds_left
        Until the deadline, asked before every look at the network; raises when there is nothing left.
    maximum_bytes
        Of one body, decompressed.
    """

    def __init__(self, seconds_left: Callable[[], float], maximum_bytes: int) -> None:
        """Keep both limits."""
        self._seconds_left = seconds_left
        self._maximum_bytes = maximum_bytes
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Open connections whose every read has an end."""
        super().init_poolmanager(*args, **options)
        self._bound(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Do so through a proxy, too."""
        return self._bound(super().proxy_manager_for(*args, **options))

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """Put one question and take the answer whole.

        Raises
        ------
        requests.RequestException
            `TooLarge`, and `HTTPError` for a redirect: what admits us here must not go elsewhere.
        """
        response = super().send(request, **options | {"timeout": self._seconds_left(), "stream": True})
        with response:
            if 300 <= response.status_code < 400:
                raise requests.HTTPError("a redirect, which is not followed", response=response)
            body = bytearray()
            for chunk in response.iter_content(CHUNK):
                self._seconds_left()
                body += chunk
                if len(body) > self._maximum_bytes:
                    raise TooLarge(f"the answer has more than {self._maximum_bytes} bytes")
        response._content = bytes(body)  # what `content` returns from now on
        return response

    def _bound(self, manager: PoolManager) -> PoolManager:
        answer = staticmethod(partial(_Answer, self._seconds_left))
        plain = type("_Connection", (HTTPConnection,), {"response_class": answer})
        secure = type("_SecureConnection", (HTTPSConnection,), {"response_class": answer})
        manager.pool_classes_by_scheme = {
            "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        return manager


class _Answer(HTTPResponse):
    """An answer that asks before each read how long it may wait: for its status line and headers as for its body."""

    def __init__(self, seconds_left: Callable[[], float], sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Incoming(self.fp.detach(), sock, seconds_left))


class _Incoming(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds_left: Callable[[], float]) -> None:
        self._raw, self._sock, self._seconds_left = raw, sock, seconds_left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._seconds_left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
