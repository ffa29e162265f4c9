"""`carpus check` against a real Orthanc: the whole loop is good, and a missing entry is named."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import db
from service.checkup.exits import Exit
from service.checkup.finding import Finding, Verdict
from service.demo.pacs import AE_TITLE, OrthancPacs, find_orthanc
from service.demo.run import free_ports
from service.queue.jobs import Jobs
from service.receiving.scp import StorageServer
from service.result_profile import ResultProfile
from service.sending.requestor import Address
from service.settings import Destination, Limits, Peer, Settings
from service.storage import Stores
from tests.service.test_checkup import made

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed (Debian: orthanc)"),
]


def look(folder: Path, engine: Engine, known_as: str) -> dict[str, Finding]:
    """Examine an Orthanc that knows our listener under this AE title."""
    carpus_port, dicom_port, http_port = free_ports(3)
    settings = Settings(
        data_directory=folder,
        scp_port=carpus_port,
        peers=(Peer(ae_title=AE_TITLE),),
        destinations=(Destination(name="pacs", ae_title=AE_TITLE, host="127.0.0.1", port=dicom_port),),
        limits=Limits(minimum_free_disk_bytes=0),
    )
    jobs = Jobs(engine, process="check")
    carpus = Address(known_as, "127.0.0.1", carpus_port)
    with ExitStack() as stack:
        stack.enter_context(StorageServer(settings, Stores.open(folder), jobs, port=carpus_port))
        stack.enter_context(OrthancPacs(folder / "pacs", dicom_port=dicom_port, http_port=http_port, carpus=carpus))
        profile = ResultProfile(objects=("SR", "SC", "GSPS", "SEG", "PDF"))
        way = Exit(settings.destinations[0], profile, settings, jobs, made)
        return {finding.name: finding for finding in way.look()}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    return engine


def test_orthanc_passes_the_whole_loop(tmp_path: Path, engine: Engine) -> None:
    found = look(tmp_path, engine, "CARPUS")
    assert {name: each.text for name, each in found.items() if each.verdict != Verdict.GOOD} == {}
    assert found["storage commitment"].text == "reported: 5 committed, 0 failed"
    assert found["C-FIND"].text == "5 of 5 test objects found"
    assert found["C-MOVE to us"].text.startswith("1 instance came")


def test_an_entry_that_orthanc_lacks_is_named(tmp_path: Path, engine: Engine) -> None:
    found = look(tmp_path, engine, "SOMEBODY")
    wrong = {name: each.next_action for name, each in found.items() if each.verdict in ("failed", "warning")}
    assert set(wrong) >= {"storage commitment", "C-MOVE to us"}
    assert all("in the PACS, add the entry CARPUS = 127.0.0.1:" in action for action in wrong.values()), wrong
