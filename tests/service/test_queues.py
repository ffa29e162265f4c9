"""Pause, drain and resume: what a person asks of a queue holds for every worker."""

import pytest
from sqlalchemy import Engine

from service.queue.jobs import Jobs, State
from service.queue.queues import DELIVERY, INFERENCE, INTAKE, Queues, UnknownQueue
from service.tables import QueueMode
from tests.service.test_jobs import Clock, advanced, film


class House:
    """A job in each queue."""

    def __init__(self, engine: Engine) -> None:
        clock = Clock()
        self.jobs = Jobs(engine, process="test", clock=clock)
        self.queues = Queues(engine, clock=clock)
        self.ids = []
        for number, states in enumerate(([], [State.PREPARED], [State.PREPARED, State.INFERRED]), start=1):
            self.jobs.record_instance(film(number))
            self.ids.append(advanced(self.jobs, self.jobs.find(f"2.25.{number}")[0].id, *states))

    def workable(self) -> set[str]:
        """Return the states a step of which may begin, by all three ways of beginning one."""
        states = {State.RECEIVED: self.ids[0], State.PREPARED: self.ids[1], State.INFERRED: self.ids[2]}
        found = set()
        for state, job_id in states.items():
            listed = (
                job_id in self.jobs.unprepared(self.jobs.now(), 10)
                if state == State.RECEIVED
                else (job_id, state) in self.jobs.unpublished()
            )
            claim = self.jobs.claim(job_id, state)
            assert (claim is not None) == listed
            if claim is not None:
                found.add(str(state))
                self.jobs.release("test")
                with self.jobs._write() as session:
                    from sqlalchemy import update

                    from service.tables import Job

                    session.execute(update(Job).values(losses=0))
        return found


@pytest.fixture
def house(engine: Engine) -> House:
    return House(engine)


EVERYTHING = {"RECEIVED", "PREPARED", "INFERRED"}


@pytest.mark.parametrize(
    ("queue", "mode", "goes_on"),
    [
        (INTAKE, QueueMode.PAUSED, {"PREPARED", "INFERRED"}),
        (INFERENCE, QueueMode.PAUSED, {"RECEIVED", "INFERRED"}),
        (DELIVERY, QueueMode.PAUSED, {"RECEIVED", "PREPARED"}),
        # A drained queue is worked on; the one that feeds it is held.
        (INTAKE, QueueMode.DRAINING, EVERYTHING),
        (INFERENCE, QueueMode.DRAINING, {"PREPARED", "INFERRED"}),
        (DELIVERY, QueueMode.DRAINING, {"RECEIVED", "INFERRED"}),
    ],
)
def test_a_held_queue_begins_nothing_until_it_is_resumed(
    house: House, queue: str, mode: QueueMode, goes_on: set[str]
) -> None:
    house.queues.set(queue, mode, by="admin", reason="maintenance")
    assert house.workable() == goes_on
    house.queues.set(queue, QueueMode.RUNNING, by="admin")
    assert house.workable() == EVERYTHING


def test_a_paused_queue_says_who_asked_and_counts_what_waits(house: House) -> None:
    assert house.jobs.claim(house.ids[1], State.PREPARED) is not None
    house.queues.set(INFERENCE, QueueMode.PAUSED, by="admin", reason="new GPU")
    found = {queue.name: queue for queue in house.queues.all()}
    assert [(q.name, q.mode, q.waiting, q.under_way) for q in found.values()] == [
        (INTAKE, QueueMode.RUNNING, 1, 0),
        (INFERENCE, QueueMode.PAUSED, 0, 1),
        (DELIVERY, QueueMode.RUNNING, 1, 0),
    ]
    assert (found[INFERENCE].changed_by, found[INFERENCE].reason) == ("admin", "new GPU")
    assert not found[INFERENCE].empty


def test_what_has_begun_when_a_queue_is_paused_is_finished(house: House) -> None:
    claim = house.jobs.claim(house.ids[1], State.PREPARED)
    house.queues.set(INFERENCE, QueueMode.PAUSED, by="admin")
    assert claim is not None
    assert house.jobs.heartbeat(claim)
    house.jobs.advance(claim, State.INFERRED)
    assert house.jobs.get(house.ids[1]).state == State.INFERRED


def test_a_queue_that_does_not_exist_is_named_with_those_that_do(house: House) -> None:
    with pytest.raises(UnknownQueue, match="intake, inference, delivery"):
        house.queues.set("lunch", QueueMode.PAUSED, by="admin")
