"""DCMTK's clients against our listener: `echoscu` and `storescu` in the transfer syntaxes they can send."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom.uid as uids
import pytest

from service.wrap import Kind, save
from tests.factories import CHINESE_CHILD, instance
from tests.listening import Running, start

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


def dcmtk(name: str) -> str:
    """Return the path of a tool of DCMTK; other packages install programs of the same name."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder) / name
        if path.is_file():
            shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if "$dcmtk" in shown.stdout:
                return str(path)
    pytest.skip(f"{name} of DCMTK is not installed")


def call(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of DCMTK to its end."""
    command = [dcmtk(tool), *map(str, arguments)]
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
