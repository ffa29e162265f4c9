"""A collector of traces on the loopback interface: takes OTLP over HTTP and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What came in so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: set[str] = set()
        self.spans: list[dict[str, Any]] = []

    def take(self, path: str, body: bytes) -> None:
        """Keep the spans of one delivery."""
        self.paths.add(path)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(item.value.string_value for item in each.resource.attributes if item.key == "service.name")
            for scope in each.scope_spans:
                for span in scope.spans:
                    told = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                    ids = {"trace": span.trace_id.hex(), "id": span.span_id.hex(), "parent": span.parent_span_id.hex()}
                    self.spans.append({"name": span.name, "service": service, "told": told, **ids})


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yield a collector that listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
