"""A PACS to try Carpus with: Orthanc where it is installed, else our own storage SCP that keeps what it is sent.

Both route every new CR and DX film to Carpus by themselves and keep what comes back, as a hospital's PACS does. Loopback only.
"""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pydicom import dcmread
from pydicom.dataset import Dataset

from service.demo.stand_in_pacs import StandInPacs
from service.errors import Permanent, Retryable
from service.sending.requestor import Address
from service.sending.scu import store

AE_TITLE = "DEMOPACS"
ROUTE = """
function OnStoredInstance(instanceId, tags, metadata, origin)
   if (tags['Modality'] == 'CR' or tags['Modality'] == 'DX' or tags['Modality'] == 'OT') and tags['Manufacturer'] ~= 'Carpus' then
      SendToModality(instanceId, 'carpus')
   end
end
"""


class DemoPacs(Protocol):
    """What the demo and the system tests need of a PACS."""

    name: str
    address: Address

    def receive(self, films: list[Dataset]) -> None:
        """Take films in as from a modality and route them on to Carpus."""

    def objects(self, study_instance_uid: str) -> list[Dataset]:
        """Return every instance of a study, header and pixels."""


def find_orthanc() -> str | None:
    """Return the path of the Orthanc server, or None where it is not installed."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


class OrthancPacs(AbstractContextManager["OrthancPacs"]):
    """Orthanc with its own auto-routing (a Lua script), started for the duration of a `with` block.

    Parameters
    ----------
    folder
        Where configuration, database and log go.
    dicom_port, http_port
        Free ports on loopback.
    carpus
        Where Carpus listens.
    """

    def __init__(self, folder: Path, *, dicom_port: int, http_port: int, carpus: Address) -> None:
        self.name = "Orthanc"
        self.address = Address(AE_TITLE, "127.0.0.1", dicom_port)
        self._url = f"http://127.0.0.1:{http_port}"
        self._folder = folder = folder.resolve()  # Orthanc takes relative paths from the folder of its configuration
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "route.lua").write_text(ROUTE, encoding="utf-8")
        configuration = {
            "Name": "Demo PACS",
            "DicomAet": AE_TITLE,
            "DicomPort": dicom_port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "LuaScripts": [str(folder / "route.lua")],
            "DicomModalities": {"carpus": [carpus.ae_title, carpus.host, carpus.port]},
            "StableAge": 1,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")

    def __enter__(self) -> Self:
        """Start the server and wait until it answers.

        Raises
        ------
        Permanent
            When Orthanc is not installed or ends at once; its log is named.
        """
        program = find_orthanc()
        if program is None:
            raise Permanent("Orthanc is not installed", next_action="apt-get install orthanc, or use the built-in PACS")
        log = self._folder / "orthanc.log"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - a program of the system with arguments of our own
                [program, str(self._folder / "orthanc.json")], stdout=stream, stderr=subprocess.STDOUT
            )
        wait_until(lambda: self._answers(log), 30, f"Orthanc to answer (its log: {log})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        stop(self._process)

    def receive(self, films: list[Dataset]) -> None:
        """Store the films over DIMSE as a modality would; the Lua script routes them on."""
        store(self.address, films, calling_ae_title="MODALITY")

    def objects(self, study_instance_uid: str) -> list[Dataset]:
        """Return every instance of a study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        identifiers = json.loads(self._request("/tools/find", json.dumps(query).encode()))
        return [dcmread(BytesIO(self._request(f"/instances/{identifier}/file"))) for identifier in identifiers]

    def _answers(self, log: Path) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise Permanent(f"Orthanc ended with status {self._process.returncode}; see {log}")
        try:
            self._request("/system")
        except OSError:
            return False
        return True

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self._url + path, data=body, timeout=30) as answer:  # noqa: S310 - loopback http
            return bytes(answer.read())


class BuiltInPacs(AbstractContextManager["BuiltInPacs"]):
    """Our own storage SCP that keeps files in a folder and routes films on when they arrive."""

    def __init__(self, folder: Path, *, dicom_port: int, carpus: Address) -> None:
        self.name = "built-in storage SCP"
        self._carpus = carpus
        self._scp = StandInPacs(folder, ae_title=AE_TITLE, port=dicom_port)
        self.address = Address(AE_TITLE, "127.0.0.1", dicom_port)

    def __enter__(self) -> Self:
        """Start the SCP."""
        self._scp.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the SCP."""
        self._scp.stop()

    def receive(self, films: list[Dataset]) -> None:
        """Store the films in the PACS, then send them on to Carpus from the PACS's AE."""
        store(self.address, films, calling_ae_title="MODALITY")
        store(self._carpus, films, calling_ae_title=AE_TITLE)

    def objects(self, study_instance_uid: str) -> list[Dataset]:
        """Return every instance of a study."""
        return [dcmread(path) for path in self._scp.files(study_instance_uid)]


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until the condition gives a true value and return it.

    Raises
    ------
    Retryable
        When the time is over; the text names what was awaited and how long.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise Retryable(f"waited {seconds:g} s for {what}")


def stop(process: subprocess.Popen[bytes] | None, seconds: float = 15) -> None:
    """End a child process by its pid, first politely."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
