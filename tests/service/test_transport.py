"""What hostile and broken peers may do to the listener: nothing that another peer would notice."""

import socket
import struct
import threading
import time
from pathlib import Path
from statistics import median

import psutil
import pytest
from pydicom.uid import ComputedRadiographyImageStorage as CR
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode
from structlog.testing import capture_logs

from service.conformance import CONTEXT_UNKNOWN, VERSION_UNKNOWN
from service.receiving.digests import digest
from service.receiving.places import MAXIMUM_PENDING
from service.receiving.transport import MAXIMUM_REQUEST_BYTES
from service.sending import commitment
from tests import raw_peer
from tests.factories import instance
from tests.listening import LIMITS, Running, start
from tests.raw_peer import IMPLICIT, RawPeer, associate_rq, command_set, p_data, pdu, status

TLS_CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)


def echo_seconds(scp: Running) -> float:
    """Return the median of five: connection, association, C-ECHO, release."""
    return median(raw_peer.echo(scp.port) for _ in range(5))


def test_a_tls_client_on_the_plain_port_is_named(scp: Running) -> None:
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.send(TLS_CLIENT_HELLO)
        assert peer.closed()
    assert [entry["event"] for entry in logs] == ["peer speaks TLS on the plain port"]
    assert scp.echo() == 0x0000


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\xff" * 64, b"\x04\x00\x00\x00\x00\x02ab"]
)
def test_garbage_is_answered_with_an_abort(scp: Running, garbage: bytes) -> None:
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.send(garbage)
        kind, body = peer.read()
        assert kind == 0x07
        assert body[2:] == b"\x02\x02"  # PS3.8 9.3.8: by the service provider, unexpected PDU
    (entry,) = [entry for entry in logs if "first_byte" in entry]
    assert entry["first_byte"] == garbage[0]
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("length", [1, 5, 6, 40, 100])
def test_a_truncated_association_request_is_logged_and_harms_nobody(scp: Running, length: int) -> None:
    with capture_logs() as logs:
        with RawPeer(scp.port) as peer:
            peer.send(associate_rq()[:length])
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.closed()
        assert scp.echo() == 0x0000
    assert "connection ended inside a PDU" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("released", [True, False])
def test_only_a_peer_that_does_not_take_leave_is_logged_to_have_left_without(scp: Running, released: bool) -> None:
    with capture_logs() as logs:
        with RawPeer(scp.port) as peer:
            peer.send(associate_rq())
            assert peer.read()[0] == 0x02
            if released:
                peer.send(pdu(0x05, bytes(4)))
                assert peer.read()[0] == 0x06
        deadline = time.monotonic() + 20
        while "association ended" not in [entry["event"] for entry in logs]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert ("connection closed without release" in [entry["event"] for entry in logs]) is not released


def test_a_request_that_does_not_parse_is_aborted(scp: Running) -> None:
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.send(pdu(0x01, b"\xff" * 300))
        assert peer.read()[0] in (0x03, 0x07)
    assert {entry["event"] for entry in logs} <= {"association request cannot be parsed", "association rejected"}
    assert logs
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("number", [0, 2, 254])
def test_a_presentation_context_without_an_odd_number_is_aborted(scp: Running, number: int) -> None:
    request = bytearray(associate_rq())
    request[request.index(b"\x20\x00", 74) + 4] = number  # behind the fixed part
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.send(bytes(request))
        assert peer.read()[0] == 0x07
    assert [entry["event"] for entry in logs] == ["association request cannot be parsed"]
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("body", [bytes([0, 0, 9, 0]), bytes([0, 0, 2, 99])])
def test_an_abort_from_a_source_or_for_a_reason_that_there_is_not_ends_its_association_alone(
    scp: Running, body: bytes
) -> None:
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.associate()
        peer.send(pdu(0x07, body))
        assert peer.closed()
        scp.wait_until_free()
    assert "PDU cannot be acted on" in [entry["event"] for entry in logs]
    assert scp.echo() == 0x0000


def test_a_commitment_request_larger_than_the_limit_is_refused_unparsed(
    scp: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "MOST_INFORMATION_BYTES", 50_000)
    request = command_set(
        RequestedSOPClassUID=str(commitment.PUSH_MODEL),
        CommandField=0x0130,
        MessageID=1,
        CommandDataSetType=1,
        RequestedSOPInstanceUID=commitment.WELL_KNOWN_INSTANCE,
        ActionTypeID=1,
    )
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        peer.associate((str(commitment.PUSH_MODEL), IMPLICIT))
        peer.send(p_data(1, request, command=True, last=True))
        for piece in range(5):
            peer.send(p_data(1, bytes(12_000), command=False, last=piece == 4))
        kind, body = peer.read()
        assert (kind, status(body)) == (0x04, commitment.RESOURCE_LIMITATION)
    assert {"bytes": 60_000, "limit": 50_000} in [{key: entry.get(key) for key in ("bytes", "limit")} for entry in logs]
    assert scp.echo() == 0x0000


def test_another_protocol_version_or_application_is_rejected_with_the_reason(scp: Running) -> None:
    for request, expected in (
        (associate_rq(version=2), VERSION_UNKNOWN),
        (associate_rq(application_context="1.2.3"), CONTEXT_UNKNOWN),
    ):
        with RawPeer(scp.port) as peer:
            peer.send(request)
            kind, body = peer.read()
        assert (kind, tuple(body[1:])) == (0x03, (expected.result, expected.source, expected.reason))


@pytest.mark.parametrize("inside", [False, True], ids=["before the association", "inside it"])
def test_a_pdu_that_claims_400_mb_is_not_believed(scp: Running, inside: bool) -> None:
    process, block = psutil.Process(), bytes(1024**2)
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        if inside:
            assert peer.associate()[0] == 0x02
        before = process.memory_info().rss
        peer.send(struct.pack(">BBI", 0x04 if inside else 0x01, 0, 400 * 1024**2))
        try:
            for _ in range(400):
                peer.socket.sendall(block)
        except OSError:
            pass  # the other side has had enough
        growth = process.memory_info().rss - before
    assert growth < 20 * 1024**2
    (entry,) = [entry for entry in logs if "longer than the limit" in entry["event"]]
    assert entry["bytes"] == 400 * 1024**2
    assert entry["limit"] < 1024**2
    assert scp.echo() == 0x0000


def test_silent_connections_hold_up_nobody_and_the_oldest_go_first(scp: Running) -> None:
    silent = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(3 * MAXIMUM_PENDING)]
    try:
        assert echo_seconds(scp) < 1
        silent[0].settimeout(5)
        assert silent[0].recv(1) == b""  # made room
        assert scp.send(instance()) == [0x0000]
    finally:
        for connection in silent:
            connection.close()


def test_a_silent_connection_is_closed_when_its_time_is_over(scp: Running) -> None:
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        started = time.monotonic()
        assert peer.closed()
        assert time.monotonic() - started == pytest.approx(LIMITS.association_timeout_seconds, abs=1)
    (entry,) = [entry for entry in logs if entry["event"] == "no association request in time"]
    assert entry["limit_seconds"] == LIMITS.association_timeout_seconds


def test_a_request_that_trickles_in_is_cut_off_at_the_same_time(scp: Running) -> None:
    request = associate_rq()
    with RawPeer(scp.port) as peer:
        started = time.monotonic()
        try:
            for byte in request:
                peer.socket.sendall(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            pass  # broken pipe or reset, as the kernel has it
        assert time.monotonic() - started < LIMITS.association_timeout_seconds + 2


def test_a_pdu_that_stops_half_way_frees_its_place(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"maximum_associations": 1, "network_timeout_seconds": 0.5})
    running = start(tmp_path, limits=limits)
    with running.server, RawPeer(running.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(pdu(0x04, b"half", length=1000))
        assert peer.closed()
        running.wait_until_free()
        assert running.send(instance()) == [0x0000]


def test_an_idle_association_is_ended_and_frees_its_place(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"maximum_associations": 1, "network_timeout_seconds": 0.5})
    running = start(tmp_path, limits=limits)
    with running.server, RawPeer(running.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        assert peer.closed()
        running.wait_until_free()
        assert running.send(instance()) == [0x0000]


def test_idle_associations_cost_little_and_do_not_slow_an_echo(scp: Running) -> None:
    peers = []
    try:
        for _ in range(40):
            peers.append(RawPeer(scp.port))
            assert peers[-1].associate((CR, IMPLICIT))[0] == 0x02
        assert echo_seconds(scp) < 1
    finally:
        for peer in peers:
            peer.socket.close()


def test_one_address_cannot_take_every_place(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"maximum_associations": 10, "maximum_associations_per_address": 3})
    running = start(tmp_path, limits=limits)
    with running.server:
        peers = [RawPeer(running.port) for _ in range(4)]
        answers = [peer.associate((CR, IMPLICIT))[0] for peer in peers]
        assert answers == [0x02, 0x02, 0x02, 0x03]
        for peer in peers:
            peer.socket.close()


def test_garbage_inside_an_association_ends_it_alone(scp: Running) -> None:
    with RawPeer(scp.port) as other, RawPeer(scp.port) as peer:
        assert other.associate()[0] == 0x02
        assert peer.associate()[0] == 0x02
        peer.send(b"\xee" * 1000)
        assert peer.closed()
        echo = raw_peer.command_set(
            AffectedSOPClassUID=raw_peer.VERIFICATION, CommandField=0x0030, MessageID=1, CommandDataSetType=0x0101
        )
        other.send(p_data(1, echo, command=True, last=True))
        assert raw_peer.status(other.read()[1]) == 0x0000


@pytest.mark.parametrize(
    "payload",
    [
        p_data(99, b"x" * 20, command=True, last=True),  # a presentation context that does not exist
        p_data(1, b"\xff" * 50, command=True, last=True),  # a command set that is none
        p_data(
            1,
            raw_peer.command_set(CommandField=0x7777, MessageID=1, CommandDataSetType=0x0101),
            command=True,
            last=True,
        ),
        pdu(0x04, b""),  # no fragment at all
        pdu(0x04, struct.pack(">IBB", 0xFFFFFFF0, 1, 3)),  # a fragment that claims 4 GB
        pdu(0x04, struct.pack(">IBB", 0, 1, 3)),  # a fragment of no length
        pdu(0x02, bytes(100)),  # an answer to nothing
    ],
    ids=["context", "command", "field", "empty", "4 GB", "no length", "answer"],
)
def test_a_malformed_message_ends_its_association_alone(scp: Running, payload: bytes) -> None:
    with RawPeer(scp.port, timeout_s=6) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(payload)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.closed()
    assert scp.echo() == 0x0000
    assert scp.jobs.backlog() == 0


def test_requests_sent_without_waiting_for_responses_end_the_association(
    scp: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(type(scp.jobs), "backlog", lambda _self: release.wait(3) or 0)
    command = p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True)
    message = command + p_data(1, bytes(100), command=False, last=True)
    with capture_logs() as logs, RawPeer(scp.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        for _ in range(10):
            peer.send_until_closed(message)
        time.sleep(0.3)
        release.set()
        assert peer.closed()
    assert "requests sent without waiting for responses" in [entry["event"] for entry in logs]


def test_a_flood_of_header_elements_is_refused_quickly(scp: Running) -> None:
    element = struct.pack("<HHI", 0x0008, 0x1155, 4) + b"1.2\0"
    data = element * 30_000
    with RawPeer(scp.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True))
        for begin in range(0, len(data), 100_000):
            piece = data[begin : begin + 100_000]
            peer.send(p_data(1, piece, command=False, last=begin + 100_000 >= len(data)))
        assert raw_peer.status(peer.read()[1]) == 0xC000
    assert scp.jobs.quarantined()[0].cause_code == "header-too-long"


def test_all_peers_together_have_a_limit_of_what_is_under_way(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"maximum_instance_bytes": 1024**2})
    running = start(tmp_path, limits=limits)
    peers = []
    with capture_logs() as logs, running.server:
        for _ in range(8):
            peer = RawPeer(running.port)
            peers.append(peer)
            assert peer.associate((CR, IMPLICIT))[0] == 0x02
            peer.send(p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True))
            for _ in range(7):
                peer.send_until_closed(p_data(1, bytes(100_000), command=False, last=False))
        deadline = time.monotonic() + 5
        while (
            not [e for e in logs if e["event"] == "too much under way from all peers"] and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert running.echo() == 0x0000
        for peer in peers:
            peer.socket.close()
        while running.server.places.bytes_under_way and time.monotonic() < deadline + 5:
            time.sleep(0.05)
        assert running.server.places.bytes_under_way == 0
    (first, *_) = [entry for entry in logs if entry["event"] == "too much under way from all peers"]
    assert first["limit"] == 4 * 1024**2


def test_the_longest_legal_request_is_within_the_limit() -> None:
    # PS3.8: 128 presentation contexts; ours lists 15 transfer syntaxes, each item 4 bytes and at most 64 characters.
    assert MAXIMUM_REQUEST_BYTES > 128 * (8 + 68 + 15 * 68)


def test_an_answer_that_crosses_an_abort_ends_the_association_quietly(scp: Running) -> None:
    """A release and garbage in one piece: the release is answered while the garbage has ended the association."""
    with RawPeer(scp.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        (association,) = scp.server.listener.server.active_associations
        association.dul.state_machine.current_state = "Sta13"  # waits for the end of the connection (PS3.8 9.2)
        association.dul.state_machine.do_action("Evt14")  # A-RELEASE response: not foreseen there
        assert association.dul._kill_thread
        assert peer.closed()
    scp.wait_until_free()
    assert scp.echo() == 0x0000


@pytest.mark.parametrize("fragments", [1, 3], ids=["one fragment a PDU", "three fragments a PDU"])
def test_what_comes_in_many_fragments_is_kept_byte_by_byte(scp: Running, fragments: int) -> None:
    film = instance()
    film.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data = encode(film, True, True)
    assert data is not None
    uid = str(film.SOPInstanceUID)
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    with RawPeer(scp.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(p_data(1, raw_peer.c_store_rq(CR, uid), command=True, last=True))
        for start in range(0, len(pieces), fragments):
            group = pieces[start : start + fragments]
            lasts = [piece is pieces[-1] for piece in group]
            peer.send(
                pdu(
                    4,
                    b"".join(p_data(1, p, command=False, last=last)[6:] for p, last in zip(group, lasts, strict=True)),
                )
            )
        assert raw_peer.status(peer.read()[1]) == 0x0000
    (job,) = scp.jobs.find(uid)
    assert scp.jobs.instance(job.instance_id).digest == digest(data)


@pytest.mark.parametrize("cut", [977, 9_001, 70_001])
def test_however_the_network_cuts_the_stream_the_film_is_kept_byte_by_byte(tmp_path: Path, cut: int) -> None:
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_pdu_size": 4096}))
    film = instance()
    film.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data = encode(film, True, True)
    assert data is not None
    sizes = [1, 4000, 4090, 17, 3000]
    stream, at, turn = p_data(1, raw_peer.c_store_rq(CR, str(film.SOPInstanceUID)), command=True, last=True), 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        stream += p_data(1, data[at : at + size], command=False, last=at + size >= len(data))
        at, turn = at + size, turn + 1
    with running.server, RawPeer(running.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        for _ in range(2):  # the second time it is the same instance, and what was read ahead of the first is gone
            for begin in range(0, len(stream), cut):
                peer.send(stream[begin : begin + cut])
            assert raw_peer.status(peer.read()[1]) == 0x0000
        (job,) = running.jobs.find(str(film.SOPInstanceUID))
        assert running.jobs.instance(job.instance_id).digest == digest(data)
        assert running.server.places.bytes_under_way == 0
    running.jobs.engine.dispose()


def test_a_request_of_unusual_form_is_kept_like_any_other(scp: Running) -> None:
    """Its command in pieces, together with its data set in one PDU, or from a peer that takes short PDUs alone."""
    for seed, form in enumerate(("command in pieces", "all in one PDU", "a peer of short PDUs")):
        film = instance(seed=seed)
        film.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        data = encode(film, True, True)
        assert data is not None
        uid = str(film.SOPInstanceUID)
        command = raw_peer.c_store_rq(CR, uid)
        head, rest = (
            p_data(1, data[:60_000], command=False, last=False),
            p_data(1, data[60_000:], command=False, last=True),
        )
        whole = p_data(1, command, command=True, last=True)
        with RawPeer(scp.port) as peer:
            short = form == "a peer of short PDUs"
            peer.send(associate_rq(contexts=[(str(CR), IMPLICIT)], maximum_length=128 if short else 16_384))
            assert peer.read()[0] == 0x02
            if form == "command in pieces":
                pieces = [command[:20], command[20:]]
                whole = b"".join(p_data(1, piece, command=True, last=piece is pieces[1]) for piece in pieces)
            peer.send(pdu(4, whole[6:] + head[6:]) + rest if form == "all in one PDU" else whole + head + rest)
            answer = peer.read()[1]
            if short:  # one command set over several fragments
                assert len(answer) == 128
                answer += peer.read()[1][6:]
            assert raw_peer.status(answer) == 0x0000
        (job,) = scp.jobs.find(uid)
        assert scp.jobs.instance(job.instance_id).digest == digest(data)
    scp.wait_until_free()
    assert scp.server.places.bytes_under_way == 0


def test_one_association_stores_in_several_contexts_and_is_verified_between(scp: Running) -> None:
    contexts = [(str(CR), IMPLICIT), (raw_peer.VERIFICATION, IMPLICIT), (str(CR), str(ExplicitVRLittleEndian))]
    echo = command_set(
        AffectedSOPClassUID=raw_peer.VERIFICATION, CommandField=0x0030, MessageID=9, CommandDataSetType=0x0101
    )
    with RawPeer(scp.port) as peer:
        assert peer.associate(*contexts)[0] == 0x02
        for seed, context_id in enumerate((1, 5, 1)):
            film = instance(seed=seed)
            data = encode(film, contexts[context_id // 2][1] == IMPLICIT, True)
            assert data is not None
            uid = str(film.SOPInstanceUID)
            peer.send(p_data(context_id, raw_peer.c_store_rq(CR, uid), command=True, last=True))
            peer.send(p_data(context_id, data, command=False, last=True))
            kind, answer = peer.read()
            assert (kind, answer[4], raw_peer.status(answer)) == (0x04, context_id, 0x0000)
            (job,) = scp.jobs.find(uid)
            kept = scp.jobs.instance(job.instance_id)
            assert kept.TransferSyntaxUID == contexts[context_id // 2][1]
            peer.send(p_data(3, echo, command=True, last=True))
            assert raw_peer.status(peer.read()[1]) == 0x0000
        peer.send(pdu(5, bytes(4)))
        assert peer.read()[0] == 0x06


@pytest.mark.parametrize(
    ("inside", "event"),
    [
        (p_data(3, b"ab", command=False, last=False), "fragment of another message inside a data set"),
        (p_data(1, b"ab", command=True, last=True), "fragment of another message inside a data set"),
        (pdu(4, struct.pack(">IBB", 0xFFFFFFF0, 1, 0)), "fragment does not fit into its PDU"),
        (pdu(4, b"", length=400 * 1024**2), "PDU longer than the limit"),
        (pdu(4, b"half", length=1000), "PDU did not end in time"),
        (b"", "PDU did not end in time"),
    ],
    ids=["context", "command", "4 GB", "400 MB", "half a PDU", "silence"],
)
def test_what_may_not_come_inside_a_data_set_aborts_the_association(tmp_path: Path, inside: bytes, event: str) -> None:
    seconds = 1.5 if "in time" in event else 30  # long enough that a busy machine does not run into it before
    running = start(tmp_path, limits=LIMITS.model_copy(update={"network_timeout_seconds": seconds}))
    with capture_logs() as logs, running.server, RawPeer(running.port) as peer:
        assert peer.associate((CR, IMPLICIT), (CR, str(ExplicitVRLittleEndian)))[0] == 0x02
        peer.send(p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True))
        peer.send(p_data(1, bytes(50_000), command=False, last=False) + inside)
        assert peer.read()[0] in (0x07, 0x00)  # an A-ABORT, unless the reset that follows overtook it
        assert peer.closed()
        running.wait_until_free()
        assert running.server.places.bytes_under_way == 0
        assert running.echo() == 0x0000
    assert event in [entry["event"] for entry in logs]
    assert running.jobs.backlog() == 0
    assert list(running.stores.identified.names()) == []
    running.jobs.engine.dispose()


@pytest.mark.parametrize("how", ["abort", "end"])
def test_a_peer_that_leaves_in_the_middle_of_a_data_set_leaves_nothing(scp: Running, how: str) -> None:
    with RawPeer(scp.port) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True))
        peer.send(p_data(1, bytes(50_000), command=False, last=False))
        if how == "abort":
            peer.send(pdu(7, bytes(4)))
            assert peer.closed()
    scp.wait_until_free()
    assert scp.server.places.bytes_under_way == 0
    assert list(scp.stores.identified.root.rglob("*.*")) == [scp.stores.identified.root / ".writers"]
    assert scp.echo() == 0x0000


def test_a_release_in_the_middle_of_a_data_set_harms_nobody(scp: Running) -> None:
    with RawPeer(scp.port, timeout_s=6) as peer:
        assert peer.associate((CR, IMPLICIT))[0] == 0x02
        peer.send(p_data(1, raw_peer.c_store_rq(CR, "1.2.3"), command=True, last=True))
        peer.send(p_data(1, bytes(500), command=False, last=False))
        peer.send(pdu(5, bytes(4)))  # A-RELEASE-RQ
        assert peer.read()[0] in (0x00, 0x06, 0x07)
    assert scp.echo() == 0x0000
    assert scp.jobs.backlog() == 0
