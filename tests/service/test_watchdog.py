"""A worker that looks alive and is not ends itself; one that works, or whose broker is away, does not."""

import pytest

from service.heaps import give_back
from service.queue.watchdog import STALLED, STUCK, Watchdog
from service.settings import WorkerSettings

LIMITS = WorkerSettings(stall_seconds=60, step_seconds=600, maximum_steps=5, maximum_resident_bytes=1000)


class Ended(BaseException):
    """The process would have ended."""


class House:
    """A watchdog whose clock, broker and memory are the test's."""

    def __init__(self, hands: int = 1) -> None:
        self.time = 1000.0
        self.reachable = True
        self.answers = True
        self.sent = self.stopped = self.resident = self.free = self.tidied = 0
        self.status: int | None = None
        self.dog = Watchdog(
            self.send,
            LIMITS,
            hands=hands,
            end=self.end,
            stop=self.stop,
            clock=lambda: self.time,
            resident_bytes=lambda: self.resident,
            tidy=self.tidy,
        )

    def send(self) -> bool:
        self.sent += 1
        if self.reachable and self.answers:
            self.dog.canary()
        return self.reachable

    def end(self, status: int) -> None:
        self.status = status
        raise Ended

    def tidy(self) -> None:
        self.tidied += 1
        self.resident, self.free = self.resident - self.free, 0

    def stop(self) -> None:
        self.stopped += 1

    def watch(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time += 1
            self.dog.round()


@pytest.fixture
def house() -> House:
    return House()


def test_free_memory_is_given_back_once_a_minute(house: House) -> None:
    house.watch(600)
    assert house.tidied == 10
    give_back()  # and does no harm where it is called


def test_a_worker_whose_canaries_come_back_lives_on(house: House) -> None:
    house.watch(1000)
    assert house.dog.detail()["canary_seconds"] < 11
    assert 90 < house.sent < 110  # one in ten seconds


def test_a_worker_that_no_longer_consumes_ends_with_its_status(house: House) -> None:
    house.watch(30)
    house.answers = False
    with pytest.raises(Ended):
        house.watch(200)
    assert house.status == STALLED
    assert 60 <= house.dog.silent_seconds() <= 72


def test_a_worker_that_never_consumed_ends_too(house: House) -> None:
    house.answers = False
    with pytest.raises(Ended):
        house.watch(200)
    assert house.status == STALLED


def test_a_broker_that_is_away_is_not_the_workers_fault(house: House) -> None:
    house.watch(30)
    house.reachable = False
    house.watch(1000)
    house.reachable, house.answers = True, False
    house.watch(45)  # the time runs from the last message that could not be sent
    with pytest.raises(Ended):
        house.watch(30)


def test_one_lost_canary_is_forgiven(house: House) -> None:
    """Redis may lose everything at any moment."""
    house.watch(30)
    house.answers = False
    house.watch(40)
    house.answers = True
    house.watch(300)
    assert house.status is None


def test_a_worker_with_both_hands_full_is_not_judged_until_it_has_one_free() -> None:
    house = House(hands=2)
    house.answers = False
    with house.dog.working(), house.dog.working():
        house.watch(500)
    with house.dog.working(), pytest.raises(Ended):
        house.watch(62)
    assert house.status == STALLED


def test_a_step_that_hangs_ends_the_process(house: House) -> None:
    with house.dog.working(), pytest.raises(Ended):
        house.watch(700)
    assert house.status == STUCK


def test_after_so_many_steps_the_process_leaves_once(house: House) -> None:
    for _ in range(5):
        with house.dog.working():
            house.watch(1)
    house.watch(5)
    assert house.stopped == 1


def test_a_process_that_has_grown_too_large_leaves(house: House) -> None:
    house.watch(5)
    assert house.stopped == 0
    house.resident = 1001
    house.watch(5)
    assert house.stopped == 1


def test_memory_that_is_free_and_held_is_no_growth(house: House) -> None:
    house.resident, house.free = 1400, 500
    house.watch(5)
    assert house.stopped == 0
    assert house.tidied == 1
    house.resident = 1400
    house.watch(1)
    assert house.stopped == 1
