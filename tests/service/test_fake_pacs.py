"""What our sender makes of each PACS that misbehaves."""

import pytest
from pydicom.uid import ComputedRadiographyImageStorage

from service.errors import Permanent, Retryable
from service.sending.requestor import Address
from service.sending.scu import Sent, store
from tests import fake_pacs
from tests.factories import instance
from tests.fake_pacs import FakePacs, SilentPort


def send(port: int, count: int = 1, *, timeout_seconds: float = 5) -> list[Sent]:
    films = [instance(number=number) for number in range(1, count + 1)]
    return store(Address("PACS", "127.0.0.1", port), films, calling_ae_title="CARPUS", timeout_seconds=timeout_seconds)


def test_a_pacs_that_accepts_keeps_what_was_sent_over_one_association() -> None:
    with FakePacs() as pacs:
        assert [sent.status for sent in send(pacs.port, 3)] == [0x0000] * 3
        assert len({ds.SOPInstanceUID for ds in pacs.kept}) == 3
        assert pacs.associations == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(0xA700, Retryable), (0x0110, Retryable), (0xC000, Permanent), (0x0122, Permanent)]
)
def test_a_failure_status_is_sorted_into_again_later_or_never(status: int, kind: type[Exception]) -> None:
    with FakePacs(fake_pacs.answers(status)) as pacs:
        (sent,) = send(pacs.port)
    assert sent.status == status
    assert isinstance(sent.error, kind)


def test_a_pacs_that_recovers_takes_the_film_the_second_time() -> None:
    with FakePacs(fake_pacs.out_of_resources_then_accepts(1)) as pacs:
        assert not send(pacs.port)[0].accepted
        assert send(pacs.port)[0].accepted
        assert len(pacs.kept) == 1


def test_after_an_abort_the_rest_waits_for_another_association() -> None:
    with FakePacs(fake_pacs.aborts) as pacs:
        results = send(pacs.port, 3)
        assert pacs.requests == 1
    assert all(isinstance(sent.error, Retryable) for sent in results)
    assert pacs.kept == []


def test_a_pacs_that_never_answers_is_left_after_the_timeout() -> None:
    with FakePacs(fake_pacs.never_answers) as pacs:
        (sent,) = send(pacs.port, timeout_seconds=0.5)
    assert isinstance(sent.error, Retryable)


def test_a_refused_class_is_named_and_permanent() -> None:
    with (
        FakePacs(refuse=[ComputedRadiographyImageStorage]) as pacs,
        pytest.raises(Permanent, match="Computed Radiography"),
    ):
        send(pacs.port)


def test_an_unknown_caller_is_told_what_to_register() -> None:
    with FakePacs(callers=["SOMEBODY"]) as pacs, pytest.raises(Permanent) as caught:
        send(pacs.port)
    assert caught.value.code == "calling-ae-refused"


def test_a_pacs_that_forgets_looks_like_one_that_keeps_which_is_why_accepted_is_not_confirmed() -> None:
    with FakePacs(fake_pacs.forgets) as pacs:
        assert send(pacs.port)[0].accepted
        assert pacs.kept == []


@pytest.mark.parametrize("hang_up", [False, True], ids=["silent", "hangs up"])
def test_a_port_that_speaks_no_dicom_is_again_later(hang_up: bool) -> None:
    with SilentPort(hang_up=hang_up) as port, pytest.raises(Retryable) as caught:
        send(port.port, timeout_seconds=0.5)
    assert caught.value.code == "peer-unreachable"
