"""One thread keeps every lease of a process, for as long as somebody works."""

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from service.queue.jobs import Claim, Jobs, State
from service.queue.keeper import Keeper
from tests.service.test_jobs import received


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine, process="test", lease_seconds=0.4)


def claimed(jobs: Jobs, number: int) -> Claim:
    claim = jobs.claim(received(jobs, number), State.RECEIVED)
    assert claim is not None
    return claim


def leases() -> set[threading.Thread]:
    """Return the threads of every keeper of this process: other tests may have left one that has not yet ended."""
    return {thread for thread in threading.enumerate() if thread.name == "leases"}


def test_one_thread_extends_the_lease_of_every_claim_and_ends_when_there_is_none(jobs: Jobs) -> None:
    first, second = claimed(jobs, 1), claimed(jobs, 2)
    keeper, others = Keeper(jobs), leases()
    before = [jobs.get(claim.job.id).lease_expires_at for claim in (first, second)]
    with keeper.kept(first), keeper.kept(second):
        own = leases() - others
        assert len(own) == 1
        until(
            lambda: all(
                jobs.get(c.job.id).lease_expires_at != was for c, was in zip((first, second), before, strict=True)
            )
        )
    until(lambda: not any(thread.is_alive() for thread in own))
    ended = jobs.get(first.job.id).lease_expires_at
    with keeper.kept(second):  # it starts again for the next claim, and leaves alone what was given back
        was = jobs.get(second.job.id).lease_expires_at
        until(lambda: jobs.get(second.job.id).lease_expires_at != was)
    assert jobs.get(first.job.id).lease_expires_at == ended


def test_a_database_that_is_away_is_asked_again_and_a_lost_lease_no_more(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, held = claimed(jobs, 1), claimed(jobs, 2)
    asked: list[int] = []

    def heartbeat(claim: Claim) -> bool:
        asked.append(claim.job.id)
        if asked.count(claim.job.id) == 1:
            raise OperationalError("UPDATE", None, Exception("away"))
        return claim.job.id == held.job.id

    monkeypatch.setattr(jobs, "heartbeat", heartbeat)
    keeper = Keeper(jobs)
    with keeper.kept(lost), keeper.kept(held):
        until(lambda: asked.count(held.job.id) >= 4)
    assert asked.count(lost.job.id) == 2
