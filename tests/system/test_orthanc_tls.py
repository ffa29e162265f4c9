"""Orthanc and Carpus over TLS, each with its certificate, in both directions: the set-up of docs/deployment.md."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.demo.pacs import find_orthanc
from service.errors import CarpusError
from service.sending import requestor, scu
from service.settings import DicomTls, Peer
from service.trust import certificates
from service.trust.tls import ClientTls
from tests.factories import instance
from tests.integration.serving import free_ports
from tests.listening import Running, start
from tests.system.tools import tool

pytestmark = [pytest.mark.system, pytest.mark.timeout(200)]


@dataclass
class Orthanc:
    """A running Orthanc that speaks TLS alone, and the Carpus it sends to."""

    http_port: int
    address: requestor.Address
    carpus: Running

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    program = find_orthanc() or tool("Orthanc", "orthanc")
    tls = tmp_path / "tls"
    certificates.make(tls, ["CARPUS", "ORTHANC"], hosts=["127.0.0.1"])
    ours = DicomTls(
        certificate=tls / "CARPUS.pem", key=tls / "CARPUS.key", authorities=tls / "authority.pem", port=2762, only=True
    )
    carpus = start(tmp_path / "carpus", peers=(Peer(ae_title="ORTHANC"),), dicom_tls=ours)
    dicom_port, http_port = free_ports(2)
    settings = {
        "Name": "TLS",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": [],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(tls / "ORTHANC.pem"),
        "DicomTlsPrivateKey": str(tls / "ORTHANC.key"),
        "DicomTlsTrustedCertificates": str(tls / "authority.pem"),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {
            "carpus": {"AET": "CARPUS", "Host": "127.0.0.1", "Port": carpus.tls_port, "UseDicomTls": True}
        },
    }
    config = tmp_path / "orthanc.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    log = (tmp_path / "orthanc.log").open("wb")
    process = subprocess.Popen([str(program), str(config)], stdout=log, stderr=log)
    way = ClientTls(tls / "authority.pem", tls / "CARPUS.pem", tls / "CARPUS.key", names=("ORTHANC",))
    found = Orthanc(http_port, requestor.Address("ORTHANC", "127.0.0.1", dicom_port, way), carpus)
    try:
        with carpus.server:
            _wait(found, process, tmp_path / "orthanc.log")
            yield found
    finally:
        process.terminate()
        process.wait(20)
        log.close()
        carpus.jobs.engine.dispose()


def _wait(orthanc: Orthanc, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while (fault := _fault(orthanc)) is not None:
        said = f"{fault}: {log.read_text(errors='replace')[-2000:]}"
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def _fault(orthanc: Orthanc) -> CarpusError | None:
    try:
        scu.echo(orthanc.address, calling_ae_title="CARPUS", timeout_seconds=10)
    except CarpusError as error:
        return error
    return None


def test_a_film_goes_to_orthanc_and_comes_from_it_over_tls(orthanc: Orthanc) -> None:
    film = instance(seed=3)
    (sent,) = scu.store(orthanc.address, [film], calling_ae_title="CARPUS", timeout_seconds=20)
    assert sent.status == 0x0000
    orthanc.post("/modalities/carpus/echo", {})
    (found,) = orthanc.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": film.SOPInstanceUID}})
    orthanc.post("/modalities/carpus/store", [found])
    assert orthanc.carpus.jobs.find(film.SOPInstanceUID)


def test_neither_side_talks_without_tls_or_a_certificate(orthanc: Orthanc) -> None:
    plain = requestor.Address("ORTHANC", orthanc.address.host, orthanc.address.port)
    bare = requestor.Address(
        "ORTHANC",
        orthanc.address.host,
        orthanc.address.port,
        ClientTls(orthanc.address.tls.authorities, names=("ORTHANC",)),
    )
    for address in (plain, bare):
        with pytest.raises(CarpusError):
            scu.echo(address, calling_ae_title="CARPUS", timeout_seconds=10)
    orthanc.carpus.server.settings = orthanc.carpus.settings.model_copy(
        update={"peers": (Peer(ae_title="ORTHANC", certificate_names=("SOMEBODY-ELSE",)),)}
    )
    with pytest.raises(urllib.error.HTTPError):
        orthanc.post("/modalities/carpus/echo", {})
