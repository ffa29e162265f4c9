"""Serve the OHIF viewer over an Orthanc on loopback: its published build, a configuration of ours, and a proxy to DICOMweb.

The build is the npm package, fetched once by `npm pack` into a folder of the user's cache and held to a fixed SHA-512.
"""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tests.system.browser import Browser

PACKAGE, VERSION = "@ohif/app", "3.13.2"
SHA512 = "5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3deea3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
CONFIGURATION = """
window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false, showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true, showErrorDetails: 'always', investigationalUseDialog: { option: 'never' },
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
      bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      omitQuotationForMultipartRequest: true,
    },
  }],
};
"""
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".wasm": "application/wasm"}


def distribution(npm: str) -> Path:
    """Return the folder of the built viewer; fetched where the cache has none.

    Raises
    ------
    RuntimeError
        When the package cannot be fetched or is not the one this test was written for.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "carpus" / f"ohif-{VERSION}"
    dist = cache / "package" / "dist"
    if not (cache / "complete").exists():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        done = subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"], cwd=cache, capture_output=True, text=True, timeout=300
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm pack {PACKAGE}@{VERSION} ended with {done.returncode}: {done.stderr[-500:]}")
        (archive,) = cache.glob("*.tgz")
        found = hashlib.sha512(archive.read_bytes()).hexdigest()
        if found != SHA512:
            raise RuntimeError(f"{archive.name} has SHA-512 {found[:16]}..., expected {SHA512[:16]}...")
        with tarfile.open(archive) as packed:
            packed.extractall(cache, members=[m for m in packed if not m.name.endswith(".map")], filter="data")
        archive.unlink()
        (cache / "complete").touch()
    return dist


class Viewer(AbstractContextManager["Viewer"]):
    """The viewer on a free port; /dicom-web/ goes to Orthanc."""

    def __init__(self, dist: Path, orthanc_url: str) -> None:
        handler = type("Handler", (_Handler,), {"dist": dist, "orthanc_url": orthanc_url})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Files of the build, the configuration, and everything below /dicom-web/ from Orthanc."""

    dist: Path
    orthanc_url: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web/"):
            return self._proxy()
        if path == "/app-config.js":
            return self._answer(200, "text/javascript", CONFIGURATION.encode())
        file = (self.dist / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.dist) or not file.is_file():
            file = self.dist / "index.html"  # the viewer routes in the page
        return self._answer(200, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes())

    def _proxy(self) -> None:
        headers = {"Accept": self.headers.get("Accept", "*/*")}
        request = urllib.request.Request(self.orthanc_url + self.path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, kind, body = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            status, kind, body = error.code, error.headers.get("Content-Type", "text/plain"), error.read()
        # Orthanc writes its own address into bulk data links; the page must come back through here.
        if "json" in kind:
            body = body.replace(self.orthanc_url.encode(), f"http://{self.headers['Host']}".encode())
        self._answer(status, kind, body)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


def orthanc_configuration(folder: Path, dicom_port: int, http_port: int) -> Path:
    """Write the configuration of an Orthanc with DICOMweb; return its path."""
    path = folder / "orthanc.json"
    path.write_text(
        json.dumps(
            {
                "Name": "Archive",
                "DicomAet": "ARCHIVE",
                "DicomPort": dicom_port,
                "HttpPort": http_port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "Plugins": [str(DICOMWEB_PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        ),
        encoding="utf-8",
    )
    return path


# What the page holds of itself: the services and the rendering engine that OHIF puts on `window`.
LOADED = "window.services && services.displaySetService.getActiveDisplaySets().length"
SHOW = """(() => {{
  const found = services.displaySetService.getActiveDisplaySets().find(each => each.SeriesInstanceUID === '{series}');
  if (!found) return false;
  const viewportId = services.viewportGridService.getActiveViewportId();
  services.viewportGridService.setDisplaySetsForViewport({{
    viewportId, displaySetInstanceUIDs: [found.displaySetInstanceUID] }});
  return true;
}})()"""
CLICK = (
    "[...document.querySelectorAll('button')].filter(e => e.innerText.trim() === '{label}').map(e => e.click()).length"
)
CANVAS = """(() => { const c = document.querySelector('.cornerstone-canvas')?.getBoundingClientRect();
  return c ? [c.x, c.y, c.width, c.height] : null })()"""
# Where column 0 row 0 and the far corner of the film lie on the canvas; null until the film is drawn.
CORNERS = """(() => { const v = cornerstone.getRenderingEngines()?.[0]?.getViewports()[0], i = v?.getImageData?.();
  if (!i) return null;
  const world = (x, y) => v.worldToCanvas([i.origin[0] + x * i.spacing[0] * i.direction[0] + y * i.spacing[1] * i.direction[3],
    i.origin[1] + x * i.spacing[0] * i.direction[1] + y * i.spacing[1] * i.direction[4], i.origin[2]]);
  return [...world(-0.5, -0.5), ...world(i.dimensions[0] - 0.5, i.dimensions[1] - 0.5)] })()"""
POLYLINES = """[...document.querySelectorAll('svg.svg-layer polyline')].map(e => e.getAttribute('points'))"""
LABELS = """[...document.querySelectorAll('svg.svg-layer text')].map(t => [...t.querySelectorAll('tspan')].map(s => s.textContent))"""

# The document that the PDF viewport embeds, as base64; null until it is there.
PDF = """(async () => {
  const address = document.querySelector('object[type="application/pdf"], object[data], iframe, embed')?.data
    ?? document.querySelector('iframe, embed')?.src;
  if (!address) return null;
  const bytes = new Uint8Array(await (await fetch(address)).arrayBuffer());
  return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
})()"""


def show(browser: Browser, series: str) -> None:
    """Put one series into the active viewport; wait until the picture stands still."""
    if not browser.evaluate(SHOW.format(series=series)):
        raise RuntimeError(f"the viewer lists no series {series}")
    settle(browser)


def settle(browser: Browser, *, timeout_s: float = 120, quiet_s: float = 1.0) -> NDArray[np.uint8]:
    """Return the picture once it has not changed for a while."""
    end = time.monotonic() + timeout_s
    last, since = browser.screenshot(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        if time.monotonic() > end:
            raise RuntimeError(f"the picture still changes after {timeout_s:g} s")
        time.sleep(0.2)
        now = browser.screenshot()
        if not np.array_equal(now, last):
            last, since = now, time.monotonic()
    return last
