"""A DICOMweb server that can be asked: QIDO-RS by study and series, WADO-RS, each well or badly as a test wants it."""

import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from pydicom import Dataset

from tests.factories import encoded

BOUNDARY = "part-of-the-answer"
LISTED = {
    "studies": ("StudyInstanceUID", "StudyDate", "PatientID"),
    "series": ("SeriesInstanceUID", "Modality", "SeriesDescription"),
}

Answer = tuple[int, str, bytes]
Spoil = Callable[[str, Answer], Answer]


class FakeDicomWeb(AbstractContextManager["FakeDicomWeb"]):
    """A server over some instances, on loopback.

    Parameters
    ----------
    authorization
        The header that a request must carry; empty: none.
    spoil
        What becomes of an answer on its way: (path, answer) -> answer.
    loose
        Whether it answers with every patient, whatever was asked.
    drip_seconds
        How long it rests after each byte, from the status line on; 0 sends at once.
    certificate, key
        For TLS; None: plain HTTP.
    """

    def __init__(
        self,
        instances: Iterable[Dataset],
        *,
        authorization: str = "",
        spoil: Spoil = lambda path, answer: answer,
        loose: bool = False,
        drip_seconds: float = 0.0,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.instances = list(instances)
        self.authorization, self.spoil, self.loose, self.drip_seconds = authorization, spoil, loose, drip_seconds
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                granted = outer.authorization in ("", self.headers.get("Authorization", ""))
                status, kind, body = outer.answer(self.path) if granted else (401, "text/plain", b"who are you?")
                if outer.drip_seconds:
                    self.wfile = _Dripping(self.wfile, outer.drip_seconds)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the client has had enough

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "FakeDicomWeb":
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, path: str) -> Answer:
        """Return status, content type and body, spoilt as the test wants."""
        parts = urlsplit(path)
        names = parts.path.removeprefix("/dicom-web/").split("/")
        query = {keyword: values[0] for keyword, values in parse_qs(parts.query).items()}
        levels = dict(zip(names[::2], names[1::2], strict=False))  # studies/1/series/2 -> what was named
        found = [ds for ds in self.instances if self._among(ds, levels)]
        if len(names) % 2:  # ends in a kind of thing: a search
            if not self.loose:
                found = [ds for ds in found if query.get("PatientID", ds.PatientID) == ds.PatientID]
            made = (200, "application/dicom+json", self._listed(names[-1], found))
        elif found:
            made = (200, f'multipart/related; type="application/dicom"; boundary={BOUNDARY}', _multipart(found))
        else:
            made = (404, "text/plain", b"no such thing")
        return self.spoil(parts.path, made)

    @staticmethod
    def _among(ds: Dataset, levels: dict[str, str]) -> bool:
        tags = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        return all(ds[tags[level]].value == uid for level, uid in levels.items())

    @staticmethod
    def _listed(level: str, found: list[Dataset]) -> bytes:
        items = {}
        for ds in found:
            item = Dataset()
            for keyword in LISTED[level]:
                if keyword in ds:
                    item[keyword] = ds[keyword]
            items[str(ds[LISTED[level][0]].value)] = item.to_json_dict()
        return json.dumps(list(items.values())).encode()


class _Dripping(io.BufferedIOBase):
    def __init__(self, out: BinaryIO, seconds: float) -> None:
        self._out, self._seconds = out, seconds

    def write(self, content: Any) -> int:
        for letter in bytes(content):
            self._out.write(bytes([letter]))
            time.sleep(self._seconds)
        return len(bytes(content))


def _multipart(found: Iterable[Dataset]) -> bytes:
    parts = [
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY.encode(), encoded(ds)) for ds in found
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
