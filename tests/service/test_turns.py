"""Who is served first: by priority, and within it each peer in turn."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from service.queue.jobs import Jobs, State, UnknownJob
from service.tables import Priority
from tests.service.test_jobs import Clock, advanced, film


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine, process="test", clock=Clock())


def receive(jobs: Jobs, peer: str, number: int, priority: Priority = Priority.ROUTINE) -> int:
    jobs.record_instance(replace(film(number), calling_ae_title=peer), priority=priority)
    return jobs.find(f"2.25.{number}")[0].id


def served(jobs: Jobs, state: State = State.RECEIVED) -> str:
    """Take everything that waits and return who it came from, in order."""
    order = []
    while (claim := jobs.claim_next(state)) is not None:
        order.append(jobs.get(claim.job.id).peer)
    return "".join(order)


def test_a_peer_that_sends_one_film_does_not_wait_for_the_many_of_another(jobs: Jobs) -> None:
    for number in range(1, 21):
        receive(jobs, "A", number)
    for number in range(101, 106):
        receive(jobs, "B", number)
    # A has the turns 1..20; B comes when turn 1 is being served and gets 1..5, so the two alternate.
    assert served(jobs)[:12] == "ABABABABABAA"


def test_turns_that_nobody_used_are_not_saved_up(jobs: Jobs) -> None:
    for number in range(1, 11):
        receive(jobs, "A", number)
        claim = jobs.claim_next(State.RECEIVED)
        assert claim is not None
        jobs.advance(claim, State.FILTERED)
    for number in range(51, 55):
        receive(jobs, "B", number)
    for number in range(55, 59):
        receive(jobs, "A", number)
    assert served(jobs) == "BABABABA"


def test_a_film_that_waits_for_a_later_try_does_not_set_the_count_back(jobs: Jobs) -> None:
    import datetime as dt

    claim = jobs.claim(receive(jobs, "A", 1), State.RECEIVED)
    assert claim is not None
    jobs.retry_later(claim, "disk-full", "no space", dt.timedelta(hours=1))
    for number in range(2, 12):
        receive(jobs, "A", number)
    for number in range(20, 24):
        receive(jobs, "B", number)
    assert served(jobs) == "ABABABABAAAAAA"


def test_urgent_films_go_before_routine_and_those_before_back_fill(jobs: Jobs) -> None:
    receive(jobs, "C", 1, Priority.BACKFILL)
    receive(jobs, "R", 2)
    receive(jobs, "S", 3, Priority.STAT)
    assert served(jobs) == "SRC"


def test_the_order_holds_in_every_queue(jobs: Jobs) -> None:
    for number in range(1, 4):
        advanced(jobs, receive(jobs, "A", number), State.PREPARED)
    advanced(jobs, receive(jobs, "B", 4), State.PREPARED)
    advanced(jobs, receive(jobs, "S", 5, Priority.STAT), State.PREPARED)
    assert served(jobs, State.PREPARED) == "SABAA"


def test_a_person_can_change_the_priority_of_an_unfinished_job(jobs: Jobs) -> None:
    first, second = receive(jobs, "A", 1), receive(jobs, "B", 2)
    jobs.prioritise(second, Priority.STAT)
    assert served(jobs) == "BA"
    assert [event.code for event in jobs.timeline(second)] == ["received", "priority"]
    jobs.cancel(first)
    with pytest.raises(UnknownJob, match="decides nothing"):
        jobs.prioritise(first, Priority.STAT)


def test_a_second_reading_takes_a_turn_of_its_own(jobs: Jobs) -> None:
    first = advanced(jobs, receive(jobs, "A", 1), State.FILTERED)
    receive(jobs, "B", 2)
    again = jobs.get(jobs.requeue(first, priority=Priority.BACKFILL))
    assert (again.peer, again.priority, again.revision) == ("A", Priority.BACKFILL, 2)
    assert served(jobs) == "BA"
