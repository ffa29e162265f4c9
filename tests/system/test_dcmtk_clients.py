"""DCMTK's clients against our listener: `echoscu` and `storescu` in the transfer syntaxes they can send."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom.uid as uids
import pytest

from service.errors import CarpusError, Permanent
from service.sending import requestor, scu
from service.wrap import Kind, save
from tests.certificates import folder, ours, theirs
from tests.factories import CHINESE_CHILD, instance
from tests.listening import Running, start
from tests.system.tools import tool

pytestmark = pytest.mark.system

# The option of `storescu` that proposes each transfer syntax.
OPTIONS = {
    uids.ExplicitVRLittleEndian: "-xe",
    uids.ExplicitVRBigEndian: "-xb",
    uids.ImplicitVRLittleEndian: "-xi",
    uids.JPEGLosslessSV1: "-xs",
    uids.JPEGBaseline8Bit: "-xy",
    uids.JPEG2000Lossless: "-xv",
    uids.JPEGLSLossless: "-xt",
    uids.RLELossless: "-xr",
    uids.DeflatedExplicitVRLittleEndian: "-xd",
}


def call(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of DCMTK to its end."""
    command = [tool(name, "dcmtk"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def store(scp: Running, paths: list[Path], *options: str) -> subprocess.CompletedProcess[str]:
    """Send files with `storescu`."""
    return call("storescu", "-aet", "PACS", "-aec", "CARPUS", *options, "127.0.0.1", str(scp.port), *paths)


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    """Yield a storage SCP that listens on a free port."""
    running = start(tmp_path / "data")
    with running.server:
        yield running
    running.jobs.engine.dispose()


def test_echoscu_is_answered(scp: Running) -> None:
    done = call("echoscu", "-v", "-aet", "PACS", "-aec", "CARPUS", "127.0.0.1", str(scp.port))
    assert done.returncode == 0, done.stderr
    assert "Success" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-aet", "PACS", "-aec", "WRONG"), "Called AE Title Not Recognized"),
        (("-aet", "STRANGER", "-aec", "CARPUS"), "Calling AE Title Not Recognized"),
    ],
)
def test_echoscu_reads_why_it_was_rejected(scp: Running, arguments: tuple[str, ...], reason: str) -> None:
    done = call("echoscu", *arguments, "127.0.0.1", str(scp.port))
    assert done.returncode != 0
    assert reason in done.stderr + done.stdout


@pytest.mark.parametrize("transfer_syntax", OPTIONS, ids=lambda uid: uid.name)
def test_storescu_sends_in_every_transfer_syntax_it_has(
    scp: Running, tmp_path: Path, transfer_syntax: uids.UID
) -> None:
    bits = 8 if transfer_syntax == uids.JPEGBaseline8Bit else 12
    path = save(instance(transfer_syntax=transfer_syntax, bits_stored=bits), tmp_path / "film")
    done = store(scp, [path], "-v", OPTIONS[transfer_syntax])
    assert done.returncode == 0, done.stderr
    assert scp.jobs.instance(1).TransferSyntaxUID == transfer_syntax


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_storescu_sends_every_kind_of_film(scp: Running, tmp_path: Path, kind: Kind) -> None:
    path = save(instance(kind=kind, patient=CHINESE_CHILD, character_set="GB18030"), tmp_path / "film")
    done = store(scp, [path])
    assert done.returncode == 0, done.stderr
    assert scp.jobs.backlog() == 1


def test_storescu_sends_many_films_over_one_association_with_the_largest_pdus(scp: Running, tmp_path: Path) -> None:
    paths = [save(instance(number=n), tmp_path / f"film{n}") for n in range(1, 21)]
    done = store(scp, paths, "-pdu", "131072", "--max-send-pdu", "131072")
    assert done.returncode == 0, done.stderr
    assert scp.jobs.backlog() == 20


def test_storescu_that_aborts_leaves_nothing_half_done(scp: Running, tmp_path: Path) -> None:
    path = save(instance(), tmp_path / "film")
    store(scp, [path], "--abort")
    assert scp.jobs.backlog() == 1  # it aborts after the response, so the film had been acknowledged
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_dcmtk_stores_over_tls_with_its_certificate_and_not_without(tmp_path: Path, version: str) -> None:
    running = start(tmp_path / "data", dicom_tls=ours())
    path = save(instance(seed=5), tmp_path / "film.dcm")
    trust = ["+cf", folder() / "authority.pem"]
    # Debian's DCMTK: +px is the extended BCP 195 profile (TLS 1.2 alone), +py the BCP 195 one.
    profile = ["+px"] if version == "1.2" else ["+py"]
    shown = ["+tls", folder() / "PACS.key", folder() / "PACS.pem"]
    to = ["-aet", "PACS", "-aec", "CARPUS", "127.0.0.1", str(running.tls_port)]
    with running.server:
        done = call("storescu", *shown, *trust, *profile, *to, path)
        refused = call("echoscu", "+tla", *trust, *profile, *to)
        assert done.returncode == 0, done.stderr
        assert refused.returncode != 0
        assert running.jobs.backlog() == 1
    running.jobs.engine.dispose()


def test_dcmtk_receives_over_tls_from_us(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        tool("storescp", "dcmtk"),
        "+tls",
        folder() / "PACS.key",
        folder() / "PACS.pem",
        "+cf",
        folder() / "authority.pem",
    ]
    command += ["-rc", "-od", tmp_path / "archive", str(port)]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        address = requestor.Address("PACS", "127.0.0.1", port, theirs("CARPUS"))
        while True:
            try:
                scu.echo(address, calling_ae_title="CARPUS", timeout_seconds=5)
                break
            except CarpusError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        (sent,) = scu.store(address, [instance()], calling_ae_title="CARPUS", timeout_seconds=10)
        assert sent.status == 0
        with pytest.raises(Permanent) as refused:
            scu.echo(
                requestor.Address("PACS", "127.0.0.1", port, theirs(None)), calling_ae_title="CARPUS", timeout_seconds=5
            )
        assert refused.value.code in ("tls-certificate-wanted", "tls-suites")
    finally:
        process.terminate()
        process.wait(10)
    assert len(list((tmp_path / "archive").iterdir())) == 1
