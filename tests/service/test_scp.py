"""What the storage SCP answers, through real sockets: every status and every rejection of `service.conformance`."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom import dcmread
from pydicom.pixels import get_decoder
from pynetdicom import AE, build_context
from pynetdicom.dsutils import encode
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from service.auditing.trail import Trail
from service.conformance import (
    ADDRESS_UNKNOWN,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    FULL,
    REFUSED_TRANSFER_SYNTAXES,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    Rejection,
)
from service.queue.jobs import Jobs
from service.queue.together import Interrupted
from service.receiving.digests import digest
from service.settings import Peer
from service.storage import Store
from service.wrap import Kind
from tests import raw_peer
from tests.factories import CHINESE_CHILD, encoded, film, instance
from tests.listening import LIMITS, Running, start

ENCODABLE = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
)


def test_a_known_peer_is_echoed(scp: Running) -> None:
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_every_kind_of_film_is_stored(scp: Running, kind: Kind) -> None:
    assert scp.send(instance(kind=kind)) == [0x0000]
    assert scp.jobs.backlog() == 1


@pytest.mark.parametrize("transfer_syntax", ENCODABLE, ids=lambda uid: uid.name)
def test_a_film_arrives_unchanged_in_every_transfer_syntax(scp: Running, transfer_syntax: uids.UID) -> None:
    assert scp.send(instance(transfer_syntax=transfer_syntax)) == [0x0000]
    kept = dcmread(BytesIO(scp.stores.identified.read(next(scp.stores.identified.names()))))
    assert kept.file_meta.TransferSyntaxUID == transfer_syntax
    near = uids.JPEGLSNearLossless == transfer_syntax
    np.testing.assert_allclose(kept.pixel_array, film(), atol=2 if near else 0)


def test_every_class_is_accepted_in_every_listed_transfer_syntax_and_in_no_other(scp: Running) -> None:
    refused = (*REFUSED_TRANSFER_SYNTAXES, uids.MPEG2MPML)
    ae = AE("PACS")
    ae.requested_contexts = [
        build_context(storage_class, syntax)
        for storage_class in STORAGE_CLASSES
        for syntax in (*TRANSFER_SYNTAXES, *refused)
    ]
    with capture_logs() as logs:
        association = ae.associate("127.0.0.1", scp.port, ae_title="CARPUS")
    accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
    association.release()
    assert accepted == {(storage_class, syntax) for storage_class in STORAGE_CLASSES for syntax in TRANSFER_SYNTAXES}
    named = {entry["syntax"]: entry["reason"] for entry in logs if entry["event"] == "transfer syntax refused"}
    assert set(named) == {syntax.name for syntax in refused}
    assert named[uids.JPEGExtended12Bit.name] == REFUSED_TRANSFER_SYNTAXES[uids.JPEGExtended12Bit]


@pytest.mark.parametrize(
    "transfer_syntax", [uid for uid in TRANSFER_SYNTAXES if uid.is_compressed], ids=lambda uid: uid.name
)
def test_what_is_accepted_can_be_decoded(transfer_syntax: uids.UID) -> None:
    assert get_decoder(transfer_syntax).is_available


def test_an_unknown_or_multi_frame_class_gets_no_presentation_context(scp: Running) -> None:
    ae = AE("PACS")
    ae.add_requested_context("1.2.840.10008.1.1")
    ae.add_requested_context(uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
    ae.add_requested_context(uids.MRImageStorage)
    ae.add_requested_context("1.2.3.4.5")
    association = ae.associate("127.0.0.1", scp.port, ae_title="CARPUS")
    results = {context.abstract_syntax: context.result for context in association.rejected_contexts}
    association.release()
    # PS3.8 9.3.3.2: 3 is "abstract syntax not supported"
    assert set(results.values()) == {3}
    assert len(results) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"called": "OTHER"}, CALLED_UNKNOWN),
        ({"calling": "STRANGER"}, CALLING_UNKNOWN),
        ({"calling": "ELSEWHERE"}, ADDRESS_UNKNOWN),
    ],
)
def test_a_stranger_is_rejected_with_the_reason(tmp_path: Path, options: dict[str, str], expected: Rejection) -> None:
    peers = (Peer(ae_title="PACS"), Peer(ae_title="ELSEWHERE", addresses=("192.0.2.0/24",)))
    running = start(tmp_path, peers=peers)
    with capture_logs() as logs, running.server:
        found = raw_peer.rejection(running.port, **options)
    assert found == (expected.result, expected.source, expected.reason)
    (entry,) = [entry for entry in logs if entry["event"] == "association rejected"]
    assert entry["code"] == expected.code
    assert entry["calling_ae_title"] == options.get("calling", "PACS")
    assert entry["address"] == "127.0.0.1"
    (record,) = Trail(running.jobs.engine).records(limit=10)
    assert (record.event, record.outcome) == ("ASSOCIATION_REFUSED", "REFUSED")
    assert record.actor == options.get("calling", "PACS")
    assert expected.code in record.message


def test_without_peers_nobody_is_admitted(tmp_path: Path) -> None:
    with start(tmp_path, peers=()).server as server:
        assert raw_peer.rejection(server.port) == (1, 1, 3)


def test_past_the_limit_associations_are_rejected_as_transient_but_echoes_still_pass(tmp_path: Path) -> None:
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_associations": 2}))
    with running.server:
        films = [running.associate(instance()) for _ in range(2)]
        assert all(association.is_established for association in films)
        with raw_peer.RawPeer(running.port) as third:
            kind, body = third.associate((uids.ComputedRadiographyImageStorage, raw_peer.IMPLICIT))
        assert (kind, tuple(body[1:])) == (0x03, (FULL.result, FULL.source, FULL.reason))
        assert FULL.result == 2  # transient: the sender tries again
        assert running.echo() == 0x0000
        for association in films:
            association.release()


def test_an_identical_repeat_succeeds_and_makes_no_second_job(scp: Running) -> None:
    assert scp.send(instance(), instance()) == [0x0000, 0x0000]
    assert scp.jobs.backlog() == 1
    assert len(list(scp.stores.identified.names())) == 1


def test_other_bytes_under_the_same_uid_are_quarantined_with_both_hashes(scp: Running) -> None:
    first, second = instance(), instance(patient=CHINESE_CHILD)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    assert scp.send(first, second, second) == [0x0000, 0xB006, 0xB006]
    assert scp.jobs.backlog() == 1
    (row,) = scp.jobs.quarantined()
    assert row.cause_code == "same-uid-other-bytes"
    assert row.count == 2
    kept = scp.jobs.find_instance(first.SOPInstanceUID)
    assert kept is not None
    assert kept[1] in row.cause_text
    data = encode(second, False, True)
    assert data is not None
    assert digest(data) in row.cause_text
    assert row.sha256 == sha256(data).hexdigest()
    assert dcmread(BytesIO(scp.stores.quarantine.read(row.name))).PatientID == second.PatientID


def test_other_bytes_are_told_by_the_number_that_the_pages_and_the_command_know_the_film_by(scp: Running) -> None:
    first, second = instance(seed=1), instance(seed=2)
    assert scp.send(instance(), first) == [0x0000, 0x0000]
    job = scp.jobs.find(first.SOPInstanceUID)[0].id
    scp.jobs.cancel(job)
    film = scp.jobs.requeue(job)  # the third job of the second instance
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    assert scp.send(second) == [0xB006]
    (row,) = scp.jobs.quarantined()
    assert film != scp.jobs.get(film).instance_id
    assert row.cause_text.startswith(f"film #{film} is kept with ")


def test_a_film_of_a_version_that_kept_its_sha256_is_told_apart_by_that(scp: Running) -> None:
    first, second = instance(), instance(patient=CHINESE_CHILD)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    assert scp.send(first) == [0x0000]
    data = encode(first, False, True)
    assert data is not None
    kept = f"sha256:{sha256(data).hexdigest()}"
    with scp.jobs.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("UPDATE instances SET digest = :kept"), {"kept": kept})
    assert scp.send(first, second) == [0x0000, 0xB006]
    (row,) = scp.jobs.quarantined()
    assert kept in row.cause_text
    assert f"sha256:{row.sha256}" in row.cause_text


@pytest.mark.parametrize(
    ("keyword", "status", "code"),
    [
        ("StudyInstanceUID", 0xC001, "missing-uid"),
        ("SeriesInstanceUID", 0xC001, "missing-uid"),
    ],
)
def test_a_data_set_without_its_uids_is_quarantined(scp: Running, keyword: str, status: int, code: str) -> None:
    assert scp.send(instance(without=(keyword,))) == [status]
    (row,) = scp.jobs.quarantined()
    assert (row.cause_code, row.cause_text) == (code, f"{keyword} is missing or empty")
    assert scp.jobs.backlog() == 0
    assert list(scp.stores.identified.names()) == []


def test_an_empty_or_impossible_uid_is_quarantined(scp: Running) -> None:
    empty, path = instance(seed=1), instance(seed=2)
    empty.StudyInstanceUID = ""
    path["StudyInstanceUID"]._value = "../../etc/passwd"
    assert scp.send(empty, path) == [0xC001, 0xC001]
    assert {row.cause_code for row in scp.jobs.quarantined()} == {"missing-uid", "invalid-uid"}


def test_a_data_set_that_is_not_what_the_request_said_is_quarantined(scp: Running) -> None:
    ds = instance(transfer_syntax=raw_peer.IMPLICIT)
    body = encoded(ds)
    data = body[body.index(b"DICM") + 4 :]
    data = data[12 + int.from_bytes(data[8:12], "little") :]  # after the file meta information (PS3.10 7.1)
    with raw_peer.RawPeer(scp.port) as peer:
        assert peer.associate((ds.SOPClassUID, raw_peer.IMPLICIT))[0] == 0x02
        peer.send(raw_peer.p_data(1, raw_peer.c_store_rq(ds.SOPClassUID, "1.2.3"), command=True, last=True))
        peer.send(raw_peer.p_data(1, data, command=False, last=True))
        kind, answer = peer.read()
    assert kind == 0x04
    assert raw_peer.status(answer) == 0xA900
    (row,) = scp.jobs.quarantined()
    assert row.cause_code == "request-mismatch"


def test_an_image_beyond_the_pixel_limit_is_quarantined_with_value_and_limit(scp: Running) -> None:
    ds = instance()
    ds.Rows = ds.Columns = 65_535
    with capture_logs() as logs:
        assert scp.send(ds) == [0xC002]
    (row,) = scp.jobs.quarantined()
    assert row.cause_code == "too-many-pixels"
    for said in (row.cause_text, next(entry["cause"] for entry in logs if entry["event"] == "instance unusable")):
        assert "65535 x 65535" in said
        assert str(LIMITS.maximum_pixels) in said


def test_garbage_as_a_data_set_is_quarantined(scp: Running) -> None:
    with raw_peer.RawPeer(scp.port) as peer:
        peer.associate((uids.ComputedRadiographyImageStorage, raw_peer.IMPLICIT))
        command = raw_peer.c_store_rq(uids.ComputedRadiographyImageStorage, "1.2.3")
        peer.send(raw_peer.p_data(1, command, command=True, last=True))
        peer.send(raw_peer.p_data(1, b"\xff" * 5000, command=False, last=True))
        assert raw_peer.status(peer.read()[1]) == 0xC000
    assert scp.jobs.quarantined()[0].cause_code == "cannot-parse"
    assert scp.echo() == 0x0000


def test_a_deflated_data_set_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    slow = {"maximum_instance_bytes": 2 * 1024**2, "network_timeout_seconds": 60}  # the sender deflates for seconds
    running = start(tmp_path, limits=LIMITS.model_copy(update=slow))
    ds = instance(transfer_syntax=uids.DeflatedExplicitVRLittleEndian)
    ds.PixelData = bytes(64 * 1024**2)
    with running.server:
        assert len(encoded(ds)) < 1024**2
        assert running.send(ds) == [0xC003]
        assert running.echo() == 0x0000


def test_a_data_set_beyond_the_byte_limit_ends_the_association_and_nothing_is_kept(tmp_path: Path) -> None:
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_instance_bytes": 1024**2}))
    with capture_logs() as logs, running.server, raw_peer.RawPeer(running.port) as peer:
        peer.associate((uids.ComputedRadiographyImageStorage, raw_peer.IMPLICIT))
        command = raw_peer.c_store_rq(uids.ComputedRadiographyImageStorage, "1.2.3")
        peer.send(raw_peer.p_data(1, command, command=True, last=True))
        for _ in range(16):
            peer.send_until_closed(raw_peer.p_data(1, bytes(100_000), command=False, last=False))
        assert peer.read()[0] in (0x07, 0)  # A-ABORT, unless the reset that follows overtook it
        assert running.echo() == 0x0000
    (entry,) = [entry for entry in logs if entry["event"] == "data set longer than the limit"]
    assert entry["limit"] == 1024**2
    assert list(running.stores.identified.names()) == []


def test_without_room_on_the_disk_the_film_is_to_be_sent_again(scp: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "free_bytes", lambda _self: 999)
    scp.stores.identified.minimum_free_bytes = 1000
    with capture_logs() as logs:
        assert scp.send(instance()) == [0xA700]
    (entry,) = [entry for entry in logs if entry["event"] == "instance refused for now"]
    assert "999 bytes free, 1000 are kept in reserve" in entry["cause"]
    monkeypatch.undo()
    scp.stores.identified.minimum_free_bytes = 0
    assert scp.send(instance()) == [0x0000]


def test_a_disk_that_fills_up_while_writing_is_out_of_resources(scp: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".dcm":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert scp.send(instance()) == [0xA700]
    assert [path for path in scp.stores.identified.root.rglob("*.*") if path.suffix in (".part", ".dcm")] == []


def test_past_the_backlog_films_are_refused_until_it_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.receiving.pressure.BELIEVED_SECONDS", 0)
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_backlog": 1}))
    with running.server:
        assert running.send(instance(seed=1), instance(seed=2)) == [0x0000, 0xA700]
        assert running.echo() == 0x0000


@pytest.mark.parametrize(
    "error",
    [OperationalError("INSERT", {}, Exception("disk I/O error")), Interrupted("the thread that wrote was ended")],
    ids=["no database", "writer ended"],
)
def test_a_film_whose_row_is_not_written_is_to_be_sent_again_and_no_file_stays(
    scp: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(Jobs, "record_instance", broken)
    assert scp.send(instance()) == [0xA700]
    assert list(scp.stores.identified.names()) == []
    monkeypatch.undo()
    assert scp.send(instance()) == [0x0000]


def test_a_file_whose_row_is_in_doubt_is_judged_when_the_database_answers_again(
    scp: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Jobs.record_instance

    def broken(*_: object, **__: object) -> int:
        raise OperationalError("INSERT", {}, Exception("server closed the connection"))

    def broken_after_the_commit(jobs: Jobs, *arguments: Any, **options: Any) -> int:
        record(jobs, *arguments, **options)
        return broken()

    monkeypatch.setattr(Jobs, "known_names", broken)
    monkeypatch.setattr(Jobs, "record_instance", broken)
    assert scp.send(instance(seed=1)) == [0xA700]
    monkeypatch.setattr(Jobs, "record_instance", broken_after_the_commit)
    assert scp.send(instance(seed=2)) == [0xA700]
    assert len(list(scp.stores.identified.names())) == 2
    monkeypatch.undo()
    receiver = scp.server.receiver
    assert receiver.settle() == 0  # too early: a commit may be under way
    assert len(list(scp.stores.identified.names())) == 2
    assert receiver.settle(older_than_seconds=0) == 1
    (kept,) = scp.stores.identified.names()
    assert scp.jobs.known_names([kept]) == {kept}
    assert receiver.settle(older_than_seconds=0) == 0


def test_an_unexpected_error_is_a_processing_failure_and_the_log_holds_no_patient(
    scp: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("TEST^CHILD")

    monkeypatch.setattr("service.receiving.receiver.inspect", broken)
    with capture_logs() as logs:
        assert scp.send(instance()) == [0x0110]
    (entry,) = [entry for entry in logs if entry["event"] == "instance failed"]
    assert entry["error"] == "KeyError"
    assert "TEST^CHILD" not in str(logs)


def test_two_associations_with_the_same_film_at_once_store_it_once(scp: Running) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.extend(scp.send(instance()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 6
    assert scp.jobs.backlog() == 1
    assert len(list(scp.stores.identified.names())) == 1


def test_names_and_bytes_of_a_chinese_patient_are_kept_as_they_came(scp: Running) -> None:
    sent = instance(patient=CHINESE_CHILD, character_set="GB18030")
    scp.send(sent)
    kept = scp.stores.identified.read(next(scp.stores.identified.names()))
    assert "Test^Zhang=测试^张".encode("gb18030") in kept


def test_the_recorded_digest_is_that_of_the_data_set(scp: Running) -> None:
    ds = instance()
    scp.send(ds)
    known = scp.jobs.find_instance(ds.SOPInstanceUID)
    assert known is not None
    kept = scp.stores.identified.read(next(scp.stores.identified.names()))
    meta = dcmread(BytesIO(kept), stop_before_pixels=True).file_meta
    start_of_data = 132 + 12 + meta.FileMetaInformationGroupLength
    assert known[1] == digest(kept[start_of_data:])


def test_a_crash_between_file_and_row_leaves_no_orphan(tmp_path: Path) -> None:
    running = start(tmp_path)
    orphan = running.stores.identified.write(b"never recorded, never acknowledged")
    (running.stores.identified.root / orphan.name[:2] / "half.part").write_bytes(b"half")
    with running.server:
        assert running.send(instance()) == [0x0000]
    again = start(tmp_path)
    with capture_logs() as logs, again.server:
        assert len(list(again.stores.identified.names())) == 1
        assert again.jobs.backlog() == 1
    assert not [entry for entry in logs if entry["event"] == "unacknowledged files removed"]  # the first start did it
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_listener_does_not_take_the_first_ones_files_for_orphans(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    with first.server:
        under_way = first.stores.identified.write(b"about to be recorded")
        with second.server:
            assert under_way.name in set(second.stores.identified.names())


def test_stopping_lets_the_transfer_under_way_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(tmp_path)
    real, entered = Jobs.record_instance, threading.Event()

    def slow(jobs: Jobs, received: object, **options: object) -> int:
        entered.set()
        threading.Event().wait(0.5)
        return real(jobs, received, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Jobs, "record_instance", slow)
    statuses: list[int] = []
    with running.server:
        sender = threading.Thread(target=lambda: statuses.extend(running.send(instance())))
        sender.start()
        assert entered.wait(5)
    sender.join()
    assert statuses == [0x0000]
    assert running.jobs.backlog() == 1


def test_the_process_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    config = tmp_path / "carpus.yaml"
    config.write_text(f"data_directory: {tmp_path / 'data'}\nscp_port: {_free_port()}\nlog_json: true\n")
    command = [sys.executable, "-m", "service", "scp", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(15) == 0
    assert "stopped listening" in rest
    assert "Traceback" not in rest


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
