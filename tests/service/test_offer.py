"""What is taken out of a request for an association, against what pynetdicom answers to the whole of it."""

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom.uid as uids
import pytest
from pynetdicom.sop_class import _STORAGE_CLASSES
from structlog.testing import capture_logs

from service.conformance import STORAGE_CLASSES, VERIFICATION
from service.receiving.offer import Offer
from service.receiving.places import ECHO_RESERVE
from tests.listening import LIMITS, Running, start
from tests.raw_peer import IMPLICIT, RawPeer, associate_rq

CR, DX = STORAGE_CLASSES[:2]
CT, MR = uids.CTImageStorage, uids.MRImageStorage
EVERYTHING = [
    (str(uid), syntax) for uid in list(_STORAGE_CLASSES.values())[:64] for syntax in (IMPLICIT, "1.2.840.10008.1.2.1")
]
OFFERS = {
    "every storage class": EVERYTHING,
    "nothing known": [(CT, IMPLICIT), (MR, IMPLICIT), ("1.2.3.4", IMPLICIT)],
    "known only": [(CR, IMPLICIT), (VERIFICATION, IMPLICIT)],
    "known in an unknown transfer syntax": [(CT, IMPLICIT), (CR, "1.2.3")],
    "one": [(CT, IMPLICIT)],
    "last known": [(CT, IMPLICIT), (MR, IMPLICIT), (DX, IMPLICIT)],
}


class _Anything:
    def __contains__(self, _: object) -> bool:
        return True


Answers = Callable[..., tuple[int, bytes]]


@pytest.fixture
def answers(scp: Running) -> Answers:
    """Ask the listener; `whole` hands pynetdicom every context of the request."""
    listener = scp.server.listener
    assert listener is not None

    def of(request: bytes, *, whole: bool) -> tuple[int, bytes]:
        own = listener.server.supported
        listener.server.supported = _Anything() if whole else own  # type: ignore[assignment]
        try:
            with RawPeer(scp.port) as peer:
                peer.send(request)
                return peer.read()
        finally:
            listener.server.supported = own

    return of


@pytest.mark.parametrize("contexts", OFFERS.values(), ids=OFFERS)
def test_the_answer_is_that_of_pynetdicom_to_the_whole_request(
    answers: Answers, contexts: list[tuple[str, str]]
) -> None:
    request = associate_rq(contexts=contexts)
    kind, body = answers(request, whole=False)
    assert (kind, body) == answers(request, whole=True)
    assert kind == 0x02
    assert body.count(b"\x21\x00\x00") == len(contexts)


def test_what_cannot_be_accepted_is_taken_out_and_one_context_stays() -> None:
    supported = {str(CR), str(VERIFICATION)}
    offer = Offer.of(associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT), (MR, IMPLICIT)]), supported)
    assert offer.refused == {1: CT, 5: MR}
    assert CR.encode() in offer.request
    assert CT.encode() not in offer.request
    assert int.from_bytes(offer.request[2:6], "big") == len(offer.request) - 6
    assert Offer.of(associate_rq(contexts=[(CT, IMPLICIT), (MR, IMPLICIT)]), supported).refused == {3: MR}


@pytest.mark.parametrize(
    "request_pdu",
    [
        b"",
        bytes(74),
        associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT)])[:-1],
        associate_rq(contexts=[(CT, IMPLICIT), (CR, "1.2.840.010008")]),
        associate_rq(contexts=[(CT, IMPLICIT), ("1." + "2" * 63, IMPLICIT)]),
        associate_rq(contexts=[(CT, IMPLICIT), ("1.2\0", IMPLICIT)]),
        associate_rq(contexts=[(CT, IMPLICIT), ("", IMPLICIT)]),
        associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT)]).replace(b"\x40\x00\x00\x11", b"\x41\x00\x00\x11"),
        associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT)]).replace(b"\x03\0\0\0\x30", b"\x01\0\0\0\x30"),
        associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT)]).replace(b"\x03\0\0\0\x30", b"\x02\0\0\0\x30"),
        associate_rq(contexts=[]),
        associate_rq(contexts=[(CT, ".".join(["1"] * 32)[:64]), ("9" * 4000, IMPLICIT)]),
    ],
    ids=[
        "empty", "no items", "cut", "leading zero", "long uid", "padded uid", "no uid", "no transfer syntax",
        "number twice", "even number", "no context", "long context",
    ],
)  # fmt: skip
def test_an_unusual_request_is_left_to_pynetdicom_whole(request_pdu: bytes) -> None:
    offer = Offer.of(request_pdu, {str(CR)})
    assert offer.request == request_pdu
    assert not offer.refused
    answer = struct.pack(">BBI", 2, 0, 68) + bytes(68)
    assert offer.answered(answer) == answer


def test_what_was_taken_out_is_named_in_the_log(answers: Answers) -> None:
    with capture_logs() as logs:
        answers(associate_rq(contexts=[(CT, IMPLICIT), (CR, IMPLICIT), (MR, IMPLICIT)]), whole=False)
    (line,) = [each for each in logs if each["event"] == "SOP classes refused"]
    assert line["count"] == 2
    assert line["some"] == ["CT Image Storage", "MR Image Storage"]


def test_who_asks_for_more_than_verification_gets_no_place_of_the_reserve(tmp_path: Path) -> None:
    assert ECHO_RESERVE > 0
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_associations": 1}))
    with running.server, RawPeer(running.port) as first:
        assert first.associate((CR, IMPLICIT))[0] == 0x02
        with RawPeer(running.port) as second:
            assert second.associate((VERIFICATION, IMPLICIT), (CT, IMPLICIT))[0] == 0x03
        with RawPeer(running.port) as third:
            assert third.associate((VERIFICATION, IMPLICIT))[0] == 0x02
    running.jobs.engine.dispose()
