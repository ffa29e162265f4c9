"""The set-up doctor finds what is wrong and names the setting or the PACS entry: stand-ins that are wrong in one way each."""

import dataclasses
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage
from sqlalchemy import Engine, text

from service import db, metrics
from service.__main__ import cli
from service.checkup import entrance, exits, machine, samples
from service.checkup.finding import Finding, Verdict, table
from service.demo.stand_in_pacs import StandInPacs
from service.ledger import utc_now
from service.queue.jobs import Jobs
from service.receiving.scp import StorageServer
from service.result_profile import ResultProfile
from service.sending.requestor import Address
from service.settings import (
    ConfirmationSettings,
    Destination,
    DestinationTls,
    DicomWebSettings,
    Limits,
    Peer,
    PriorSettings,
    Settings,
)
from service.storage import Stores
from tests import certificates
from tests.factories import encoded
from tests.fake_dicomweb import FakeDicomWeb
from tests.fake_pacs import FakePacs, forgets
from tests.listening import start
from tests.service import readings
from tests.service.installation import Clock
from tests.service.test_jobs import film


def made(profile: ResultProfile) -> list[Dataset]:
    """Return the test objects, of a known reading instead of a bundle's."""
    image, header = samples.film()
    reading = readings.reading()
    facts = dataclasses.replace(reading.image, rows=image.rows, columns=image.columns)
    return samples.objects(profile, "2.25.1", dataclasses.replace(reading, image=facts), image, header)


class Place:
    """An installation whose listener runs, and one destination."""

    def __init__(self, folder: Path, engine: Engine, stack: ExitStack) -> None:
        self.folder, self.engine, self.stack = folder, engine, stack
        self.peers: tuple[Peer, ...] = (Peer(ae_title="PACS"),)
        self.serve()

    def serve(self) -> None:
        """Listen with the peers as they are now."""
        self.settings = self._settings(1)
        server = StorageServer(self.settings, Stores.open(self.folder), Jobs(self.engine, process="scp"), port=0)
        self.port = self.stack.enter_context(server).port

    def _settings(self, port: int, **changes: Any) -> Settings:
        fields = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "timeout_seconds": 10}
        return Settings(
            data_directory=self.folder,
            peers=self.peers,
            destinations=(Destination(**(fields | changes)),),
            confirmation=ConfirmationSettings(hold_seconds=1),
            limits=Limits(minimum_free_disk_bytes=0),
            scp_port=self.port if hasattr(self, "port") else 11112,
        )

    def look(
        self,
        port: int,
        *,
        make: Callable[[ResultProfile], list[Dataset]] | None = made,
        objects: tuple[str, ...] = ("SR", "SC", "SEG"),
        listening: bool = True,
        **changes: Any,
    ) -> dict[str, Finding]:
        settings = self._settings(port, **changes)
        profile = ResultProfile(objects=objects)  # type: ignore[arg-type]
        jobs = Jobs(self.engine, process="check")
        way = exits.Exit(settings.destinations[0], profile, settings, jobs, make, report_seconds=1, listening=listening)
        return {finding.name: finding for finding in way.look()}


@pytest.fixture
def place(tmp_path: Path, engine: Engine) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, engine, stack)


def test_a_pacs_that_does_everything_passes(place: Place) -> None:
    with StandInPacs(place.folder / "pacs") as pacs:
        found = place.look(pacs.port)
    verdicts = {name: finding.verdict for name, finding in found.items()}
    assert verdicts.pop("C-MOVE to us") == Verdict.WARNING  # the stand-in retrieves nothing
    assert "Query/Retrieve Information Model - MOVE" in found["C-MOVE to us"].next_action
    assert set(verdicts.values()) == {Verdict.GOOD}, found
    assert found["storage commitment"].text == "reported: 3 committed, 0 failed"
    assert found["C-FIND"].text == "3 of 3 test objects found"
    kept = [dcmread(path) for path in pacs.files()]
    assert {(str(ds.PatientName), ds.PatientID) for ds in kept} == {("CARPUS^SETUP CHECK", "CARPUS-CHECK")}


EARLIER = "earlier reports by QIDO-RS and WADO-RS"


def web(url: str, **more: Any) -> dict[str, Any]:
    return {"priors": PriorSettings(retrieve="web", web=DicomWebSettings(url=url, **more))}


def test_the_test_report_comes_back_over_dicomweb(place: Place) -> None:
    kept = made(ResultProfile(objects=("SR", "SC", "SEG")))
    with StandInPacs(place.folder / "pacs") as pacs, FakeDicomWeb(kept) as archive:
        found = place.look(pacs.port, **web(archive.url))[EARLIER]
        searched = place.look(pacs.port, make=None, **web(archive.url))[EARLIER]
    assert found.verdict == Verdict.GOOD
    assert f"the test report came back at {archive.url}" in found.text
    assert searched.verdict == Verdict.GOOD
    assert "no test report was stored" in searched.text


@pytest.mark.parametrize("missing", ["of another archive", "listed and not brought"])
def test_a_dicomweb_server_without_the_test_report_is_told(place: Place, missing: str) -> None:
    kept = [] if missing == "of another archive" else made(ResultProfile(objects=("SR",)))

    def spoil(path: str, answer: Any) -> Any:
        retrieval = "/series/" in path
        return (200, 'multipart/related; type="application/dicom"; boundary=x', b"--x--") if retrieval else answer

    with StandInPacs(place.folder / "pacs") as pacs, FakeDicomWeb(kept, spoil=spoil) as archive:
        found = place.look(pacs.port, **web(archive.url))[EARLIER]
    assert found.verdict == Verdict.FAILED
    assert archive.url in found.text
    assert "url of priors.web" in found.next_action


def test_a_dicomweb_server_that_wants_a_token_or_is_away_names_the_setting(place: Place) -> None:
    with StandInPacs(place.folder / "pacs") as pacs:
        with FakeDicomWeb([], authorization="Bearer other") as archive:
            refused = place.look(pacs.port, **web(archive.url))[EARLIER]
        away = place.look(pacs.port, **web(archive.url))[EARLIER]
    assert (refused.verdict, away.verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert "the token or the password of priors.web" in refused.next_action
    assert "priors.web" in away.next_action
    assert archive.url in away.text


def test_dicomweb_is_tried_although_no_association_comes_about(place: Place) -> None:
    with FakePacs(callers=["SOMEBODY"]) as pacs, FakeDicomWeb([]) as archive:
        found = place.look(pacs.port, **web(archive.url))
    assert found["C-ECHO"].verdict == Verdict.FAILED
    assert found[EARLIER].verdict == Verdict.GOOD


def test_earlier_reports_over_dimse_are_tried_too(place: Place) -> None:
    with StandInPacs(place.folder / "pacs") as pacs:
        found = place.look(pacs.port, priors=PriorSettings(timeout_seconds=5))
    told = found["earlier reports by C-FIND and C-GET"]
    assert told.verdict == Verdict.FAILED  # the stand-in retrieves nothing
    assert told.next_action


def test_an_ae_title_the_pacs_does_not_know_is_named(place: Place) -> None:
    with FakePacs(callers=["SOMEBODY"]) as pacs:
        found = place.look(pacs.port)
    assert found["C-ECHO"].verdict == Verdict.FAILED
    assert "register our AE title CARPUS" in found["C-ECHO"].next_action
    assert found["everything else"].verdict == Verdict.SKIPPED


def test_tls_on_one_side_alone_names_the_setting(place: Place, tmp_path: Path) -> None:
    ours = certificates.ours()
    tls = DestinationTls(certificate=ours.certificate, key=ours.key, authorities=ours.authorities)
    with StandInPacs(place.folder / "pacs") as pacs:
        plain = place.look(pacs.port, tls=tls)["C-ECHO"]
    running = start(tmp_path / "tls", dicom_tls=ours, peers=(Peer(ae_title="CARPUS"),))
    with running.server:
        secured = place.look(running.tls_port, ae_title="CARPUS")["C-ECHO"]
    running.jobs.engine.dispose()
    assert (plain.verdict, secured.verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert "speaks no TLS, and destinations.pacs.tls is set" in plain.text
    assert "take destinations.pacs.tls away" in plain.next_action
    assert "speaks TLS, and we call it in plain DICOM" in secured.text
    assert "set destinations.pacs.tls" in secured.next_action


def test_a_wrong_called_ae_title_names_our_setting(place: Place) -> None:
    with FakePacs(ae_title="OTHER") as pacs:
        found = place.look(pacs.port)
    assert "destination's ae_title" in found["C-ECHO"].next_action


def test_nobody_at_the_address_names_host_and_port(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = place.look(port)
    assert f"nobody takes a connection at 127.0.0.1:{port}" in found["C-ECHO"].text
    assert "correct destinations.pacs.host or .port" in found["C-ECHO"].next_action


def test_a_refused_class_names_it_and_the_choice(place: Place) -> None:
    with FakePacs(refuse=[SegmentationStorage], queried=True) as pacs:
        found = place.look(pacs.port)
        assert len(pacs.kept) == 2
    assert found["accepts SEG"].verdict == Verdict.FAILED
    assert SegmentationStorage in found["accepts SEG"].next_action
    assert "leave SEG out of the profile" in found["accepts SEG"].next_action
    assert found["accepts SR"].verdict == Verdict.GOOD


def test_a_pacs_that_accepts_and_forgets_is_told(place: Place) -> None:
    with FakePacs(forgets, commits="same", queried=True) as pacs:
        found = place.look(pacs.port)
    assert found["test objects"].verdict == Verdict.GOOD  # it said so
    assert (found["C-FIND"].verdict, found["storage commitment"].verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert found["storage commitment"].text == "reported: 0 committed, 3 failed"


def test_a_commitment_without_a_report_names_the_entry(place: Place) -> None:
    with FakePacs(commits="silent") as pacs:
        found = place.look(pacs.port)
    assert found["storage commitment"].verdict == Verdict.FAILED
    assert f"CARPUS = 127.0.0.1:{place.port}" in found["storage commitment"].next_action


def test_where_our_own_listener_does_not_run_no_entry_of_the_pacs_is_blamed(place: Place) -> None:
    with FakePacs(commits="silent") as pacs:
        found = place.look(pacs.port, listening=False)["storage commitment"]
    assert found.verdict == Verdict.FAILED
    assert found.next_action.startswith("start `carpus serve`")
    assert entrance.is_open(place._settings(1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert not entrance.is_open(place._settings(1).model_copy(update={"scp_port": free}))


def test_a_report_that_comes_to_the_listener_is_seen(place: Place) -> None:
    with FakePacs(commits="another", reports_to=Address("CARPUS", "127.0.0.1", place.port)) as pacs:
        found = place.look(pacs.port)
    assert found["storage commitment"].text == "reported: 3 committed, 0 failed"


def test_a_report_from_another_ae_title_names_the_setting(place: Place) -> None:
    place.peers = (Peer(ae_title="PACS"), Peer(ae_title="ARCHIVE"))
    place.serve()
    here = Address("CARPUS", "127.0.0.1", place.port)
    with FakePacs(commits="another", reports_to=here, reports_as="ARCHIVE") as pacs:
        found = place.look(pacs.port)["storage commitment"]
    assert (found.verdict, found.text) == (
        Verdict.FAILED,
        "the report came from ARCHIVE, and we asked PACS: it is refused",
    )
    assert found.next_action.startswith("set destinations.pacs.ae_title to ARCHIVE")


class Silent(BaseHTTPRequestHandler):
    """A web server that logs nothing."""

    def log_message(self, *_: Any) -> None:
        pass


def test_a_port_where_no_dicom_is_spoken_names_the_setting(place: Place) -> None:
    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found = place.look(server.server_port)["C-ECHO"]
        server.shutdown()
        thread.join()
    assert "answers no association" in found.text
    assert "destinations.pacs.port" in found.next_action


def test_a_service_that_is_not_offered_is_a_warning_unless_the_settings_want_it(place: Place) -> None:
    with FakePacs() as pacs:
        auto = place.look(pacs.port)
        strict = place.look(pacs.port, confirm="commitment")
    assert auto["storage commitment"].verdict == Verdict.WARNING
    assert strict["storage commitment"].verdict == Verdict.FAILED
    assert (
        "1.2.840.10008.1.20.1" in strict["storage commitment"].next_action
        or "Push Model" in strict["storage commitment"].next_action
    )


def test_a_destination_that_may_not_call_us_is_named(place: Place) -> None:
    place.peers = (Peer(ae_title="MODALITY"),)
    with FakePacs() as pacs:
        found = place.look(pacs.port)
    assert found["may call us"].verdict == Verdict.WARNING
    assert "list PACS under `peers`" in found["may call us"].next_action


def test_read_only_stores_nothing(place: Place) -> None:
    with FakePacs(commits="same", queried=True) as pacs:
        found = place.look(pacs.port, make=None)
        assert (pacs.requests, pacs.asked) == (0, [])
    assert {found[name].verdict for name in ("test objects", "storage commitment", "C-MOVE to us")} == {Verdict.SKIPPED}
    assert found["C-FIND"].text == "is offered"


def test_test_objects_are_the_same_bytes_at_each_call() -> None:
    profile = ResultProfile(objects=("SR", "SC", "GSPS", "SEG", "PDF"))
    first, second = ([encoded(ds) for ds in made(profile)] for _ in range(2))
    assert len(first) == 5
    assert first == second


def test_the_way_in_is_tried_in_the_name_of_each_peer(place: Place) -> None:
    place.peers = (Peer(ae_title="PACS"),)
    settings = place._settings(1)
    jobs = Jobs(place.engine)
    found = {each.name: each for each in entrance.look(settings, jobs)}
    assert found["C-ECHO as PACS"].verdict == Verdict.GOOD
    assert found["films from PACS"].verdict == Verdict.WARNING
    nobody = settings.model_copy(update={"peers": ()})
    assert [each.name for each in entrance.look(nobody, jobs)] == ["peers"]
    remote = settings.model_copy(
        update={"destinations": (settings.destinations[0].model_copy(update={"host": "10.0.0.7"}),)}
    )
    assert "scp_host: 0.0.0.0" in entrance.bound(remote).next_action
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    down = {each.name: each for each in entrance.look(settings.model_copy(update={"scp_port": free}), jobs)}
    assert "carpus serve" in down["C-ECHO as PACS"].next_action


def test_the_test_object_of_an_earlier_check_is_no_film(place: Place) -> None:
    settings, jobs = place._settings(1), Jobs(place.engine)
    _, header = samples.film()
    assert header.StudyInstanceUID == samples.STUDY_UID
    for study, verdict in ((samples.STUDY_UID, Verdict.WARNING), ("2.25.77", Verdict.GOOD)):
        jobs.record_instance(replace(film(len(study)), calling_ae_title="PACS", StudyInstanceUID=study))
        found = {each.name: each for each in entrance.look(settings, jobs)}["films from PACS"]
        assert found.verdict == verdict
    assert found.text.startswith("1, the last one at")


def test_the_way_in_over_tls_alone_is_tried_too(place: Place, tmp_path: Path) -> None:
    ours = certificates.ours()
    running = start(tmp_path / "tls", dicom_tls=ours, peers=(Peer(ae_title="PACS"),))
    own = ours.model_copy(update={"port": running.tls_port, "only": True})
    settings = place._settings(1).model_copy(update={"dicom_tls": own})
    jobs = Jobs(place.engine)
    with running.server:
        found = {each.name: each for each in entrance.look(settings, jobs)}
    assert found["address"].text == f"CARPUS listens on 127.0.0.1:{running.tls_port} over TLS"
    assert found["listener, TLS"].verdict == Verdict.GOOD, found["listener, TLS"]
    assert "admits PACS by its own certificate" in found["listener, TLS"].text
    assert not any(name.startswith("C-ECHO") for name in found)
    down = entrance.secured(settings)
    assert down.verdict == Verdict.FAILED
    assert f"uses port {running.tls_port}" in down.next_action
    other = start(tmp_path / "other", dicom_tls=certificates.ours("OTHER"), peers=(Peer(ae_title="PACS"),))
    unnamed = certificates.ours("OTHER").model_copy(update={"port": other.tls_port, "only": True})
    with other.server:
        nameless = entrance.secured(settings.model_copy(update={"dicom_tls": unnamed}))
    assert nameless.verdict == Verdict.WARNING
    assert "dicom_tls.certificate made with the name CARPUS" in nameless.next_action
    for each in (running, other):
        each.jobs.engine.dispose()


def test_the_machine_is_judged_by_its_limits(place: Place) -> None:
    settings = place._settings(1)
    assert machine.disk(settings).verdict in (Verdict.GOOD, Verdict.WARNING)
    greedy = settings.model_copy(update={"limits": Limits(minimum_free_disk_bytes=1 << 60)})
    assert "minimum_free_disk_bytes" in machine.disk(greedy).next_action
    assert machine.bundle(settings.model_copy(update={"bundle": "nowhere"})).verdict == Verdict.FAILED
    jobs = Jobs(place.engine)
    assert machine.database(jobs).verdict == Verdict.GOOD
    (silent,) = machine.processes(jobs)
    assert "carpus serve" in silent.next_action
    assert silent.text == f"never seen: {', '.join(metrics.PROCESSES)}"
    assert machine.broker(settings, jobs).verdict == Verdict.WARNING
    away = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    assert machine.broker(away, jobs).verdict == Verdict.FAILED


def test_a_process_that_ended_in_order_is_stopped_at_once_and_a_killed_one_silent_after_a_minute(place: Place) -> None:
    clock = Clock()
    jobs = Jobs(place.engine, clock=clock)

    def said() -> tuple[Verdict, str, str]:
        (found,) = machine.processes(jobs)
        return found.verdict, found.text, found.next_action

    for name in (*metrics.PROCESSES, "worker delivery 2"):
        jobs.beat(name)
    clock.pass_by(42)
    jobs.beat("intake")
    alive = ", ".join(f"{name} {0 if name == 'intake' else 42} s ago" for name in metrics.PROCESSES)
    assert said() == (Verdict.GOOD, f"alive, last heard of: {alive}", "")
    jobs.sign_off("worker delivery")  # another one of its kind lives
    assert said()[0] == Verdict.GOOD
    jobs.sign_off("worker delivery 2")
    verdict, text, action = said()
    assert verdict == Verdict.WARNING
    assert text.endswith("; stopped: worker delivery 0 s ago")
    assert action.endswith("on a cluster: carpus worker delivery")
    clock.pass_by(30)
    assert said()[1] == (
        "alive, last heard of: intake 30 s ago; stopped: worker delivery 30 s ago; "
        "silent, last heard of: scp 1 min ago, worker inference 1 min ago, web 1 min ago"
    )


class _LocksOut(BaseRequestHandler):
    """A Redis that knows the caller and wants another password: every command is answered so."""

    def handle(self) -> None:
        while self.request.recv(65_536):
            self.request.sendall(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")


def test_a_broker_that_does_not_let_us_in_names_its_account(place: Place) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), _LocksOut) as redis:
        redis.daemon_threads = True
        threading.Thread(target=redis.serve_forever, daemon=True).start()
        url = f"redis://:mistyped@127.0.0.1:{redis.server_address[1]}/0"
        found = machine.broker(place._settings(1).model_copy(update={"broker_url": url}), Jobs(place.engine))
        redis.shutdown()
    assert found.verdict == Verdict.FAILED
    assert "password in broker_url" in found.next_action
    assert "mistyped" not in found.text + found.next_action


@pytest.mark.parametrize(("offset", "verdict"), [(0, Verdict.GOOD), (90, Verdict.WARNING), (-90, Verdict.WARNING)])
def test_the_clock_of_a_pacs_is_compared_by_its_date(offset: int, verdict: Verdict) -> None:
    import datetime as dt

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(401)
            self.send_header("Date", format_datetime(utc_now() + dt.timedelta(seconds=offset), usegmt=True))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = machine.http_clock(f"http://127.0.0.1:{server.server_address[1]}/")
    assert found.verdict == verdict, found
    assert ("time server" in found.next_action) == (verdict == Verdict.WARNING)


def test_the_command_ends_with_one_where_something_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))
    result = CliRunner().invoke(cli, ["check", "--json", "--read-only"])
    assert result.exit_code == 1
    found = [json.loads(line) for line in result.stdout.splitlines()]
    failed = {each["name"]: each["next_action"] for each in found if each["verdict"] == "failed"}
    assert set(failed) == {"peers", "destinations"}
    assert all(failed.values())
    assert all(each["next_action"] for each in found if each["verdict"] == "warning")


def test_without_a_database_the_rest_is_looked_at(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "carpus.yaml"
    place = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    url = f"postgresql://carpus:kj3hb4kj@127.0.0.1:{port}/carpus"
    values = {"data_directory": str(tmp_path), "database_url": url, "destinations": [place]}
    config.write_text(json.dumps(values), encoding="utf-8")
    result = CliRunner().invoke(cli, ["check", "--json", "--config", str(config)])
    found = {each["name"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert found["database"]["verdict"] == "failed"
    assert found["database"]["next_action"] == "start the database, or correct database_url"
    assert "kj3hb4kj" not in result.output
    assert found["disk"]["verdict"] == "good"
    assert "destinations.pacs.host or .port" in found["C-ECHO"]["next_action"]


def test_tables_of_an_earlier_version_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0011'"))
    config = tmp_path / "carpus.yaml"
    config.write_text(json.dumps({"data_directory": str(tmp_path)}), encoding="utf-8")
    result = CliRunner().invoke(cli, ["check", "--json", "--config", str(config)])
    found = {each["name"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert "stand at 0011" in found["database"]["text"]
    assert "carpus serve" in found["database"]["next_action"]
    assert db.version(engine) == "0011"
    engine.dispose()


@pytest.mark.parametrize(
    ("variable", "built_for", "change"),
    [
        ("CUDA_VISIBLE_DEVICES", None, "install a build of torch for CUDA"),
        ("NVIDIA_VISIBLE_DEVICES", "12.4", "docker run --gpus all"),
    ],
)
def test_a_gpu_that_is_asked_for_and_not_there_names_what_to_change(
    place: Place, monkeypatch: pytest.MonkeyPatch, variable: str, built_for: str | None, change: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", Path("/nowhere"))
    for name in machine.GPU_ASKED_BY:
        monkeypatch.delenv(name, raising=False)
    settings = place._settings(1).model_copy(update={"inference_threads": 3})
    assert "the CPU, 3 threads" in machine.processor(settings).text
    monkeypatch.setenv(variable, "0")
    found = machine.processor(settings)
    assert found.verdict == Verdict.WARNING
    assert f"{variable}=0" in found.text
    assert change in found.next_action
    assert f"unset {variable}" in found.next_action


def test_the_table_says_what_to_do() -> None:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO())
    console.print(table([Finding("to pacs", "C-ECHO", Verdict.FAILED, "rejected", "register CARPUS")]))
    assert "-> register CARPUS" in console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
