import datetime as dt
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service import db
from service.ledger import Life, life_of
from service.queue.causes import Decision
from service.queue.jobs import DuplicateInstance, Jobs, LeaseLost, ReceivedInstance, ResultState, State, UnknownJob
from service.retention import Removals
from service.tables import Heartbeat, Table


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(engine: Engine, clock: Clock) -> Jobs:
    return Jobs(engine, process="test", clock=clock, lease_seconds=60)


def film(number: int = 1, digest: str = "a" * 64) -> ReceivedInstance:
    return ReceivedInstance(
        SOPInstanceUID=f"2.25.{number}",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1",
        StudyInstanceUID="2.25.900",
        SeriesInstanceUID="2.25.901",
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        digest=digest,
        byte_count=1000,
        name=f"aa/{number}.dcm",
        calling_ae_title="PACS",
        called_ae_title="CARPUS",
        address="127.0.0.1",
    )


def received(jobs: Jobs, number: int = 1) -> int:
    jobs.record_instance(film(number))
    return jobs.find(f"2.25.{number}")[0].id


def advanced(jobs: Jobs, job_id: int, *states: State) -> int:
    for state in states:
        claim = jobs.claim(job_id, State(jobs.get(job_id).state))
        assert claim is not None
        jobs.advance(claim, state)
    return job_id


RESULT = {
    "destination": "pacs",
    "kind": "SR",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33",
    "SOPInstanceUID": "2.25.5",
    "SeriesInstanceUID": "2.25.6",
    "name": "x.dcm",
    "sha256": "c" * 64,
}


QUARANTINED = {
    "code": "no-study-uid",
    "text": "none",
    "name": "cd/cd00.dcm",
    "sha256": "f" * 64,
    "SOPInstanceUID": None,
    "calling_ae_title": "PACS",
    "address": "127.0.0.1",
}


HEAD = max(path.name for path in (Path(db.__file__).parent / "migrations" / "versions").glob("m*.py"))[1:5]


def test_the_migration_makes_exactly_the_tables_the_code_uses(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    assert db.version(engine) == HEAD


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    db.migrate(engine)
    assert db.version(engine) == HEAD


def test_sqlite_syncs_every_commit_to_a_write_ahead_log(engine: Engine) -> None:
    with engine.connect() as connection:
        pragmas = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
        assert pragmas == ["wal", 2]
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_the_numbers_of_a_removed_film_are_not_given_again(jobs: Jobs) -> None:
    """The audit trail names a film and a job by them for good, and follows events by theirs."""
    jobs.record_quarantine(**QUARANTINED)
    first = received(jobs)
    film_id, events = jobs.get(first).instance_id, jobs.timeline(first)
    claim = jobs.claim(advanced(jobs, first, State.PREPARED, State.INFERRED), State.INFERRED)
    assert claim is not None
    jobs.record_results(claim, "pacs", [RESULT])
    result, file = jobs.results(first)[0].id, jobs.quarantined()[0]
    removals = Removals(jobs.engine)
    removals.drop_film(film_id)
    removals.drop_quarantined(file)
    second = received(jobs)
    assert second > first
    assert jobs.get(second).instance_id > film_id
    assert min(event.id for event in jobs.timeline(second)) > max(event.id for event in events)
    claim = jobs.claim(advanced(jobs, second, State.PREPARED, State.INFERRED), State.INFERRED)
    assert claim is not None
    jobs.record_results(claim, "pacs", [RESULT])
    assert jobs.results(second)[0].id > result
    assert jobs.record_quarantine(**QUARANTINED) > file.id


def test_a_job_goes_through_its_states_and_leaves_a_timeline(jobs: Jobs, clock: Clock) -> None:
    job_id = received(jobs)
    assert jobs.backlog() == 1
    for state in (State.PREPARED, State.INFERRED, State.DELIVERED, State.CONFIRMED):
        claim = jobs.claim(job_id, State(jobs.get(job_id).state))
        assert claim is not None
        clock.pass_seconds(0.25)
        jobs.advance(claim, state)
    assert jobs.get(job_id).state == State.CONFIRMED
    assert jobs.backlog() == 0
    events = [(event.code, event.milliseconds) for event in jobs.timeline(job_id)]
    steps = [(name, 250.0) for name in ("prepared", "inferred", "delivered", "confirmed")]
    assert events == [("received", None), *steps]


@pytest.mark.parametrize(
    ("before", "to"),
    [
        ((), State.DELIVERED),
        ((), State.CONFIRMED),
        ((State.PREPARED,), State.FILTERED),
        ((State.PREPARED,), State.DELIVERED),
        ((State.PREPARED, State.INFERRED), State.CONFIRMED),
    ],
)
def test_a_step_cannot_be_skipped(jobs: Jobs, before: tuple[State, ...], to: State) -> None:
    job_id = advanced(jobs, received(jobs), *before)
    claim = jobs.claim(job_id, State(jobs.get(job_id).state))
    assert claim is not None
    with pytest.raises(ValueError, match="does not go from"):
        jobs.advance(claim, to)


def test_a_second_claim_gets_nothing(jobs: Jobs) -> None:
    job_id = received(jobs)
    assert jobs.claim(job_id, State.RECEIVED) is not None
    assert jobs.claim(job_id, State.RECEIVED) is None


def test_of_many_claimers_at_once_one_wins(engine: Engine) -> None:
    job_id = received(Jobs(engine))
    start = threading.Barrier(8)
    wins: list[str] = []

    def compete(name: str) -> None:
        mine = Jobs(engine, process=name)
        start.wait()
        if mine.claim(job_id, State.RECEIVED) is not None:
            wins.append(name)

    threads = [threading.Thread(target=compete, args=(f"worker {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert Jobs(engine).get(job_id).lease_owner == wins[0]


def test_a_claim_of_a_step_that_is_done_gets_nothing(jobs: Jobs) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    assert jobs.claim(job_id, State.PREPARED) is None


def test_a_heartbeat_keeps_the_lease_and_silence_loses_it(jobs: Jobs, clock: Clock) -> None:
    claim = jobs.claim(received(jobs), State.RECEIVED)
    assert claim is not None
    clock.pass_seconds(50)
    assert jobs.heartbeat(claim)
    clock.pass_seconds(50)
    assert jobs.sweep().released == ()
    clock.pass_seconds(11)
    assert jobs.sweep().released == (claim.job.id,)
    assert not jobs.heartbeat(claim)
    with pytest.raises(LeaseLost):
        jobs.advance(claim, State.PREPARED)
    assert jobs.get(claim.job.id).state == State.RECEIVED


def test_the_late_worker_cannot_overwrite_the_one_that_took_over(jobs: Jobs, clock: Clock) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED)
    late = jobs.claim(job_id, State.PREPARED)
    clock.pass_seconds(61)
    present = jobs.claim(job_id, State.PREPARED)
    assert late is not None
    assert present is not None
    jobs.advance(present, State.INFERRED, reading="present")
    with pytest.raises(LeaseLost):
        jobs.advance(late, State.INFERRED, reading="late")
    assert jobs.get(job_id).reading == "present"


def test_a_job_that_kills_three_workers_is_taken_out_with_its_cause(jobs: Jobs, clock: Clock) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED)
    for _ in range(3):
        assert jobs.claim(job_id, State.PREPARED) is not None
        clock.pass_seconds(61)
        swept = jobs.sweep()
    assert swept.abandoned == (job_id,)
    job = jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.FAILED, "worker-lost")
    assert jobs.retry(job_id) == State.PREPARED
    assert jobs.claim(job_id, State.PREPARED) is not None


def test_what_a_dead_worker_held_is_free_at_once(engine: Engine, clock: Clock) -> None:
    dead, alive = Jobs(engine, process="dead", clock=clock), Jobs(engine, process="alive", clock=clock)
    first, second = (advanced(alive, received(alive, number), State.PREPARED) for number in (1, 2))
    assert dead.claim(first, State.PREPARED) is not None
    assert alive.claim(second, State.PREPARED) is not None
    assert alive.release("dead").released == (first,)
    assert alive.claim(first, State.PREPARED) is not None
    assert alive.claim(second, State.PREPARED) is None


def test_a_failed_step_is_tried_again_only_after_its_delay(jobs: Jobs, clock: Clock) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    jobs.published(job_id, State.INFERRED)
    jobs.retry_later(claim, "pacs-away", "no answer", dt.timedelta(seconds=30))
    assert jobs.claim(job_id, State.INFERRED) is None
    assert jobs.unpublished() == []
    clock.pass_seconds(31)
    assert jobs.unpublished() == [(job_id, State.INFERRED)]
    second = jobs.claim(job_id, State.INFERRED)
    assert second is not None
    assert second.job.attempts == 2
    assert jobs.get(job_id).cause_code == "pacs-away"


def test_a_permanent_failure_names_its_next_action_and_waits_for_a_person(jobs: Jobs) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    jobs.fail(claim, "sop-class-refused", "no SR", "add the SOP class to the PACS")
    job = jobs.get(job_id)
    assert (job.state, job.resume_state) == (State.FAILED, State.INFERRED)
    assert job.next_action == "add the SOP class to the PACS"
    assert jobs.claim(job_id, State.INFERRED) is None
    assert jobs.retry(job_id) == State.INFERRED
    assert jobs.get(job_id).cause_code is None


def test_cancelling_takes_the_job_from_whoever_works_on_it(jobs: Jobs) -> None:
    job_id = received(jobs)
    claim = jobs.claim(job_id, State.RECEIVED)
    assert claim is not None
    jobs.cancel(job_id)
    with pytest.raises(LeaseLost):
        jobs.advance(claim, State.PREPARED)
    assert jobs.get(job_id).state == State.CANCELLED
    assert jobs.retry(job_id) == State.RECEIVED


@pytest.mark.parametrize("way", [(State.FILTERED,), (State.PREPARED, State.INFERRED, State.DELIVERED)])
def test_a_finished_job_cannot_be_cancelled_or_retried(jobs: Jobs, way: tuple[State, ...]) -> None:
    job_id = advanced(jobs, received(jobs), *way)
    with pytest.raises(UnknownJob, match="nothing to cancel"):
        jobs.cancel(job_id)
    with pytest.raises(UnknownJob, match="nothing to retry"):
        jobs.retry(job_id)
    with pytest.raises(UnknownJob, match="no job 99"):
        jobs.get(99)


def test_reading_a_film_again_is_a_new_revision(jobs: Jobs) -> None:
    first = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED, State.DELIVERED, State.CONFIRMED)
    second = jobs.requeue(first)
    assert [(job.id, job.revision) for job in jobs.find("2.25.1")] == [(second, 2), (first, 1)]
    assert jobs.get(first).state == State.CONFIRMED


def test_an_overdue_job_is_marked_once_and_goes_on(jobs: Jobs, clock: Clock) -> None:
    job_id = received(jobs)
    clock.pass_seconds(301)
    assert jobs.sweep().overdue == (job_id,)
    assert jobs.sweep().overdue == ()
    assert [job.id for job in jobs.overdue()] == [job_id]
    assert jobs.oldest() == {State.RECEIVED: dt.timedelta(seconds=301)}
    advanced(jobs, job_id, State.PREPARED)
    assert jobs.overdue() == ()


def test_a_message_is_sent_once_until_the_broker_is_known_to_be_empty(jobs: Jobs, clock: Clock) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED)
    assert jobs.unpublished() == [(job_id, State.PREPARED)]
    jobs.published(job_id, State.PREPARED)
    assert jobs.unpublished() == []
    clock.pass_seconds(6)
    assert jobs.unpublished(older_than=dt.timedelta(seconds=5)) == [(job_id, State.PREPARED)]
    assert jobs.unpublished(older_than=dt.timedelta(seconds=5), state=State.INFERRED) == []
    clock.pass_seconds(601)
    assert jobs.unpublished() == [(job_id, State.PREPARED)]


def test_workers_can_take_jobs_without_a_message_urgent_ones_first(jobs: Jobs) -> None:
    routine = advanced(jobs, received(jobs, 1), State.PREPARED)
    jobs.record_instance(film(2), priority=1)
    urgent = advanced(jobs, jobs.find("2.25.2")[0].id, State.PREPARED)
    order = [jobs.claim_next(State.PREPARED) for _ in range(3)]
    assert [claim.job.id if claim else None for claim in order] == [urgent, routine, None]


def test_the_same_instance_twice_is_one_row_and_names_what_is_kept(jobs: Jobs) -> None:
    instance_id = jobs.record_instance(film(1))
    with pytest.raises(DuplicateInstance) as caught:
        jobs.record_instance(film(1, digest="b" * 64))
    assert (caught.value.instance_id, caught.value.digest) == (instance_id, "a" * 64)
    assert len(jobs.list()) == 1
    assert jobs.known_names(["aa/1.dcm", "aa/2.dcm"]) == {"aa/1.dcm"}


def test_films_and_repeats_that_come_at_the_same_time_get_each_their_own_answer(jobs: Jobs) -> None:
    wanted = [*range(1, 9), *range(1, 9)]
    start = threading.Barrier(len(wanted))
    kept: list[int] = []
    repeated: list[int] = []

    def receive(number: int) -> None:
        start.wait()
        try:
            kept.append(jobs.record_instance(film(number)))
        except DuplicateInstance as duplicate:
            repeated.append(duplicate.instance_id)

    threads = [threading.Thread(target=receive, args=(number,)) for number in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept) == sorted(repeated) == sorted(set(kept))
    rows = jobs.list()
    assert sorted(job.instance_id for job in rows) == sorted(kept)
    assert sorted(job.turn for job in rows) == list(range(1, 9))


def test_a_rehearsal_leaves_nothing(jobs: Jobs) -> None:
    jobs.rehearse()
    assert jobs.list() == []
    received(jobs, 1)
    jobs.rehearse()
    assert len(jobs.list()) == 1


def test_the_same_bytes_in_quarantine_for_the_same_cause_are_counted(jobs: Jobs) -> None:
    cause = {"code": "no-study", "text": "StudyInstanceUID is missing", "name": "q.dcm", "sha256": "d" * 64}
    where = {"SOPInstanceUID": None, "calling_ae_title": "PACS", "address": "127.0.0.1"}
    first = jobs.record_quarantine(**cause, **where)
    assert jobs.record_quarantine(**cause, **where) == first
    assert [(row.id, row.count) for row in jobs.quarantined()] == [(first, 2)]


def test_preparation_backs_off_and_gives_up_with_its_cause(jobs: Jobs, clock: Clock) -> None:
    job_id = received(jobs)
    outcomes = []
    for _ in range(3):
        assert jobs.claim(job_id, State.RECEIVED) is not None
        delay = None if len(outcomes) == 2 else dt.timedelta(seconds=30)
        outcomes.append(jobs.prepare_failed(job_id, Decision("disk-full", "no space", "make room", delay)))
        assert jobs.unprepared(clock(), 10) == []
        clock.pass_seconds(300)
    assert outcomes == [False, False, True]
    assert jobs.get(job_id).state == State.FAILED


def test_building_results_again_keeps_what_was_accepted(jobs: Jobs) -> None:
    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    jobs.record_results(claim, "pacs", [RESULT, RESULT | {"kind": "SC", "SOPInstanceUID": "2.25.7"}])
    jobs.record_status(job_id, "pacs", "2.25.5", ResultState.ACCEPTED, 0)
    jobs.record_results(claim, "pacs", [RESULT])
    assert [(r.kind, r.state, r.status_code) for r in jobs.results(job_id)] == [("SR", "accepted", 0)]


def test_a_naive_time_is_refused(engine: Engine) -> None:
    naive = Jobs(engine, clock=lambda: dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the very thing that must be refused
    with pytest.raises(Exception, match="naive time"):
        naive.beat("scp")


def test_processes_are_known_by_their_last_sign_of_life(jobs: Jobs, clock: Clock) -> None:
    jobs.beat("scp")
    clock.pass_seconds(5)
    jobs.beat("scp")
    assert [(row.process, row.at) for row in jobs.processes()] == [("scp", clock())]


def test_counts_name_every_state(jobs: Jobs) -> None:
    received(jobs)
    assert jobs.counts() == dict.fromkeys(State, 0) | {State.RECEIVED: 1}


def test_each_of_several_workers_of_a_kind_gives_its_own_signs_of_life(
    jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for host in ("a", "b", "c"):
        monkeypatch.setattr("service.ledger.socket.gethostname", lambda host=host: host)
        names.append(jobs.sign_on("worker inference"))
    assert names == ["worker inference", "worker inference 2", "worker inference 3"]
    assert [row.process for row in jobs.processes()] == names
    clock.pass_seconds(61)  # the first two are silent, the third goes on
    jobs.beat("worker inference 3", {"host": "c"})
    monkeypatch.setattr("service.ledger.socket.gethostname", lambda: "d")
    assert jobs.sign_on("worker inference") == "worker inference"
    clock.pass_seconds(3601)
    jobs.beat("worker inference", {"host": "d"})
    monkeypatch.setattr("service.ledger.socket.gethostname", lambda: "e")
    assert jobs.sign_on("worker inference") == "worker inference 2"
    assert [row.process for row in jobs.processes()] == ["worker inference", "worker inference 2"]


def test_a_process_that_is_started_anew_takes_the_name_of_the_dead_one(jobs: Jobs) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    jobs.sign_on("worker delivery")
    with Session(jobs.engine.execution_options(write=True)) as session, session.begin():
        session.get_one(Heartbeat, "worker delivery").pid = dead.pid
    assert jobs.sign_on("worker delivery") == "worker delivery"


def test_a_process_that_ends_in_order_says_so_and_one_that_took_its_name_lives_on(jobs: Jobs, clock: Clock) -> None:
    jobs.sign_on("worker delivery")
    jobs.beat("worker delivery", {"host": socket.gethostname(), "canary_seconds": 1.0, "busy": 0})
    clock.pass_seconds(5)
    jobs.sign_off("worker delivery")
    (row,) = jobs.processes()
    assert (life_of(row, clock()), row.at) == (Life.STOPPED, clock())
    assert "canary_seconds" not in (row.detail or {})  # what it said of itself holds no more
    jobs.beat("worker delivery", {"host": socket.gethostname()})
    (row,) = jobs.processes()
    assert life_of(row, clock()) == Life.ALIVE
    clock.pass_seconds(60)
    assert life_of(row, clock()) == Life.ALIVE
    clock.pass_seconds(1)
    assert life_of(row, clock()) == Life.SILENT
    for other in ({"pid": os.getpid() + 1}, {"detail": {"host": "another machine"}}):
        jobs.beat("worker delivery", {"host": socket.gethostname()})
        with Session(jobs.engine.execution_options(write=True)) as session, session.begin():
            for name, value in other.items():
                setattr(session.get_one(Heartbeat, "worker delivery"), name, value)
        jobs.sign_off("worker delivery")
        assert life_of(jobs.processes()[0], clock()) == Life.ALIVE, other
    jobs.sign_off("one that never gave a sign of life")
    assert len(jobs.processes()) == 1


def test_the_name_of_a_process_that_ended_in_order_is_free_at_once(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.sign_on("worker inference")
    jobs.sign_off("worker inference")
    monkeypatch.setattr("service.ledger.socket.gethostname", lambda: "another machine")
    assert jobs.sign_on("worker inference") == "worker inference"


def test_a_database_that_is_away_does_not_hold_up_who_ends(jobs: Jobs) -> None:
    jobs.sign_on("worker inference")
    Heartbeat.__table__.drop(jobs.engine.execution_options(write=True))
    jobs.sign_off("worker inference")


def test_a_film_that_came_before_the_clock_was_set_back_waits_for_nothing(jobs: Jobs, clock: Clock) -> None:
    """It had waited until the clock reached the hour it was received at."""
    clock.pass_seconds(7200)
    job_id = received(jobs)
    clock.pass_seconds(-7200)
    assert jobs.unprepared(clock() - dt.timedelta(seconds=5), 10) == [job_id]


def test_the_state_alone_can_be_asked(jobs: Jobs) -> None:
    job_id = received(jobs)
    assert jobs.state_of(job_id) == State.RECEIVED
    jobs.cancel(job_id)
    assert jobs.state_of(job_id) == State.CANCELLED
    with pytest.raises(UnknownJob, match="no job 4711"):
        jobs.state_of(4711)
