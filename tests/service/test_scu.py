import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import A_ABORT, A_RELEASE, P_DATA
from pynetdicom.sop_class import Verification

from service import associations
from service.errors import Permanent, Retryable
from service.sending import requestor
from service.sending.requestor import Address
from service.sending.scu import echo, failure, store
from tests.factories import instance

Handler = Callable[[Any], Any]
UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@pytest.fixture
def pacs() -> Iterator[Callable[..., Address]]:
    """Start a storage SCP that answers as told; returns its address."""
    with ExitStack() as stack:

        def start(
            on_store: Handler = lambda _event: 0x0000,
            *,
            classes: tuple[str, ...] = (ComputedRadiographyImageStorage, SecondaryCaptureImageStorage, Verification),
            syntaxes: list[str] | None = None,
            accept_calling: list[str] | None = None,
            require_called: bool = False,
            maximum_associations: int = 10,
            at: str = "127.0.0.1",
        ) -> Address:
            ae = AE(ae_title="PACS")
            ae.maximum_associations = maximum_associations
            ae.require_called_aet = require_called
            ae.require_calling_aet = accept_calling or []
            for sop_class in classes:
                ae.add_supported_context(sop_class, syntaxes or UNCOMPRESSED)
            server = ae.start_server((at, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
            stack.callback(server.shutdown)
            return Address("PACS", at, server.socket.getsockname()[1])

        yield start


def send(address: Address, *instances: Dataset, **options: Any) -> list[Any]:
    return store(address, instances, calling_ae_title="CARPUS", timeout_seconds=5, **options)


def test_an_echo_takes_a_measured_time(pacs: Callable[..., Address]) -> None:
    assert 0 < echo(pacs(), calling_ae_title="CARPUS", timeout_seconds=5) < 5000


def test_what_is_stored_is_what_was_sent_over_one_association(pacs: Callable[..., Address]) -> None:
    kept: list[tuple[Any, Dataset]] = []

    def keep(event: Any) -> int:
        kept.append((event.assoc, event.dataset))
        return 0x0000

    first, second = instance(kind="CR", seed=1), instance(kind="SC", seed=2)
    sent = send(pacs(keep), first, second)
    assert [one.accepted for one in sent] == [True, True]
    assert [one.status for one in sent] == [0, 0]
    assert [ds.SOPInstanceUID for _, ds in kept] == [first.SOPInstanceUID, second.SOPInstanceUID]
    assert kept[0][0] is kept[1][0]
    assert kept[0][1].PixelData == first.PixelData


def test_a_file_goes_as_it_lies_there_and_is_encoded_anew_only_where_it_must_be(
    pacs: Callable[..., Address], tmp_path: Path
) -> None:
    came: list[bytes] = []

    def keep(event: Any) -> int:
        came.append(event.request.DataSet.getvalue())
        return 0x0000

    file = tmp_path / "film.dcm"
    instance(kind="CR", transfer_syntax=ExplicitVRLittleEndian).save_as(file, enforce_file_format=True)
    (sent,) = store(pacs(keep), [file], calling_ae_title="CARPUS", timeout_seconds=5, maximum_pdu_size=16_384)
    film = dcmread(file)
    assert (sent.status, sent.SOPInstanceUID, sent.SOPClassUID) == (0, film.SOPInstanceUID, film.SOPClassUID)
    assert file.read_bytes().endswith(came[0])
    (sent,) = store(pacs(keep, syntaxes=[ImplicitVRLittleEndian]), [file], calling_ae_title="CARPUS", timeout_seconds=5)
    assert sent.accepted
    assert came[1] != came[0]
    again = decode(BytesIO(came[1]), True, True)
    assert (again.SOPInstanceUID, again.PixelData) == (film.SOPInstanceUID, film.PixelData)


def test_an_uncompressed_film_reaches_a_peer_that_knows_implicit_vr_only(pacs: Callable[..., Address]) -> None:
    sent = send(pacs(syntaxes=[ImplicitVRLittleEndian]), instance(kind="CR"))
    assert sent[0].accepted


def test_a_compressed_film_is_not_sent_to_a_peer_that_cannot_take_it(pacs: Callable[..., Address]) -> None:
    film = instance(kind="CR", transfer_syntax=JPEG2000Lossless)
    sent = send(pacs(), film, instance(kind="CR", seed=1))
    assert isinstance(sent[0].error, Permanent)
    assert sent[0].error.code == "transfer-syntax-refused"
    assert sent[1].accepted


def test_a_refused_class_is_named_and_does_not_keep_the_others_back(pacs: Callable[..., Address]) -> None:
    address = pacs(classes=(ComputedRadiographyImageStorage,))
    sent = send(address, instance(kind="SC"), instance(kind="CR"))
    assert [one.accepted for one in sent] == [False, True]
    cause = failure(sent)
    assert isinstance(cause, Permanent)
    assert cause.code == "sop-class-refused"
    assert "Secondary Capture Image Storage" in cause.next_action
    assert "1.2.840.10008.5.1.4.1.1.7" in cause.next_action


def test_a_peer_that_accepts_no_class_at_all_is_told_apart_from_one_that_is_away(pacs: Callable[..., Address]) -> None:
    address = pacs(classes=(Verification,))
    with pytest.raises(Permanent, match="Computed Radiography") as caught:
        send(address, instance(kind="CR"))
    assert caught.value.code == "sop-class-refused"


def test_an_unregistered_calling_ae_names_the_entry_missing_in_the_pacs(pacs: Callable[..., Address]) -> None:
    with pytest.raises(Permanent) as caught:
        send(pacs(accept_calling=["SOMEBODY"]), instance(kind="CR"))
    assert caught.value.code == "calling-ae-refused"
    assert "register our AE title CARPUS" in caught.value.next_action


def test_a_wrong_called_ae_names_the_setting_to_correct(pacs: Callable[..., Address]) -> None:
    address = pacs(require_called=True)
    with pytest.raises(Permanent) as caught:
        echo(Address("WRONG", address.host, address.port), calling_ae_title="CARPUS", timeout_seconds=5)
    assert caught.value.code == "called-ae-refused"
    assert "ae_title" in caught.value.next_action


def test_a_full_peer_is_asked_again_later(pacs: Callable[..., Address]) -> None:
    address = pacs(maximum_associations=1)
    ae = AE(ae_title="OTHER")
    ae.add_requested_context(Verification)
    other = ae.associate(address.host, address.port)
    assert other.is_established
    try:
        with pytest.raises(Retryable) as caught:
            send(address, instance(kind="CR"))
        assert "limit" in str(caught.value).lower()
    finally:
        other.release()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """Return a name server's table to fill: what is in it is answered from it."""
    table: dict[str, tuple[str, ...]] = {}
    ask = socket.getaddrinfo

    def answer(host: str | None, *further: Any, **options: Any) -> list[Any]:
        return [entry for each in table.get(host or "", (host,)) for entry in ask(each, *further, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return table


@pytest.mark.parametrize("at", ["127.0.0.1", "127.0.0.2", "::1"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_pacs_is_reached_at_whichever_address_of_its_name_it_listens(
    pacs: Callable[..., Address], names: dict[str, tuple[str, ...]], at: str, order: int
) -> None:
    names["pacs.hospital.example"] = ("127.0.0.1", "127.0.0.2", "::1")[::order]
    try:
        there = pacs(at=at)
    except OSError:
        if at == "127.0.0.1":
            raise
        pytest.skip(f"this machine has no {at}")
    assert echo(Address("PACS", "pacs.hospital.example", there.port), calling_ae_title="CARPUS") > 0


def test_a_name_of_both_families_is_called_at_its_first_of_ipv4_as_long_as_somebody_is_there(
    pacs: Callable[..., Address], names: dict[str, tuple[str, ...]]
) -> None:
    names["pacs.hospital.example"] = ("::1", "127.0.0.1")
    there = pacs(accept_calling=["OTHER"])
    called: list[str] = []
    noted = [(evt.EVT_CONN_OPEN, lambda event: called.append(event.address[0]))]
    with (
        pytest.raises(Permanent) as caught,
        requestor.associate(
            Address("PACS", "pacs.hospital.example", there.port),
            [(Verification, ImplicitVRLittleEndian)],
            calling_ae_title="CARPUS",
            evt_handlers=noted,
        ),
    ):
        pass
    assert caught.value.code == "calling-ae-refused"  # it answered, so nobody else is asked
    assert called == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["pacs.invalid", "pacs..invalid"])
def test_a_name_that_nobody_knows_is_asked_again_later(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    ask = socket.getaddrinfo

    def answer(asked: Any, *further: Any, **options: Any) -> Any:
        if asked == "pacs.invalid":  # RFC 6761 6.4; the resolver of this machine is not asked
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(asked, *further, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(Retryable) as caught:
        echo(Address("PACS", host, 11112), calling_ae_title="CARPUS")
    assert caught.value.code == "peer-unreachable"
    assert f"{host} of PACS cannot be resolved" in str(caught.value)


def test_nobody_at_the_address_is_retried(unused_port: int) -> None:
    with pytest.raises(Retryable) as caught:
        echo(Address("PACS", "127.0.0.1", unused_port), calling_ae_title="CARPUS", timeout_seconds=2)
    assert caught.value.code == "peer-unreachable"


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, None),
        (0xB000, None),  # warning: coercion of data elements
        (0xB006, None),
        (0xB007, None),
        (0x0111, None),  # duplicate: our UIDs are derived, so it is this very object
        (0xA700, Retryable),
        (0x0110, Retryable),
        (0x0213, Retryable),
        (0x0117, Permanent),
        (0x0122, Permanent),
        (0x0124, Permanent),
        (0xA900, Permanent),
        (0xC000, Permanent),
    ],
)
def test_each_status_is_sorted_by_what_helps(
    pacs: Callable[..., Address], status: int, outcome: type[Exception] | None
) -> None:
    sent = send(pacs(lambda _event: status), instance(kind="CR"))
    assert sent[0].status == status
    assert type(sent[0].error) is (outcome or type(None))
    if isinstance(sent[0].error, Permanent):
        assert sent[0].error.next_action


def test_lack_of_resources_keeps_the_rest_back(pacs: Callable[..., Address]) -> None:
    asked: list[str] = []

    def full(event: Any) -> int:
        asked.append(event.request.AffectedSOPInstanceUID)
        return 0xA700

    sent = send(pacs(full), instance(kind="CR", seed=1), instance(kind="CR", seed=2))
    assert len(asked) == 1
    assert [one.accepted for one in sent] == [False, False]
    assert isinstance(failure(sent), Retryable)


def test_an_association_aborted_half_way_is_never_a_success(pacs: Callable[..., Address]) -> None:
    count = iter(range(9))

    def abort_on_the_second(event: Any) -> int:
        if next(count) == 1:
            event.assoc.abort()
        return 0x0000

    films = [instance(kind="CR", seed=seed) for seed in range(3)]
    sent = send(pacs(abort_on_the_second), *films)
    assert [one.accepted for one in sent] == [True, False, False]
    cause = failure(sent)
    assert isinstance(cause, Retryable)
    assert cause.code == "association-aborted"


def test_a_release_does_not_wait_for_ever_for_a_thread_that_its_gate_holds(pacs: Callable[..., Address]) -> None:
    contexts = [(Verification, ImplicitVRLittleEndian)]
    with requestor.associate(pacs(), contexts, calling_ae_title="CARPUS", timeout_seconds=5) as peer:
        peer._reactor_checkpoint.clear()
        end = time.monotonic() + 20
        while not peer._reactor_checkpoint.holds and time.monotonic() < end:
            time.sleep(0.001)
        peer._is_paused = False  # seen: held, and the word that it is taken back
        release = threading.Thread(target=peer.release, daemon=True)
        release.start()
        release.join(20)
        assert not release.is_alive()
        assert peer.is_released


def test_each_answer_is_told_before_the_next_instance_goes_out(pacs: Callable[..., Address]) -> None:
    told: list[str] = []
    films = [instance(kind="CR", seed=seed) for seed in range(2)]
    send(pacs(), *films, on_sent=lambda sent: told.append(sent.SOPInstanceUID))
    assert told == [film.SOPInstanceUID for film in films]


def test_who_closes_the_gate_knows_whether_the_other_thread_has_passed() -> None:
    association = SimpleNamespace(_is_paused=True)
    gate = associations.Gate(association)
    assert gate.wait(0)
    assert association._is_paused is False  # with the library's event it would say "held" here, and take the response
    association._is_paused = True
    gate.clear()
    assert not gate.wait(0.01)
    assert association._is_paused is True


def test_no_data_is_sent_behind_our_own_request_to_release() -> None:
    sent: list[Any] = []
    peer = SimpleNamespace(dul=SimpleNamespace(send_pdu=sent.append))
    associations.leave_in_silence(peer)
    before, leaving, late, end = P_DATA(), A_RELEASE(), P_DATA(), A_ABORT()
    for primitive in (before, leaving, late, end):
        peer.dul.send_pdu(primitive)
    assert sent == [before, leaving, end]
