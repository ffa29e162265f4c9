"""Measure what is delivered and not proved, why jobs wait or failed, how long steps take, what the graphics processors hold."""

import datetime as dt
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from sqlalchemy import ColumnElement, Row, and_, case, func, select
from sqlalchemy.orm import Session

from service import tallies
from service.queue.jobs import Jobs, State
from service.tables import Commitment, CommitmentState, Job, JobEvent, ResultObject, ResultState

STEP_BUCKETS_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STEP_TALLIES: Final = ("steps", "steps_ms", *(f"steps_within_{limit:g}" for limit in STEP_BUCKETS_SECONDS))
SETTLED_AFTER: Final = dt.timedelta(minutes=5)  # by then no transaction can add an event of an earlier number
WAITING: Final = (State.RECEIVED, State.PREPARED, State.INFERRED, State.DELIVERED)


def families(jobs: Jobs) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Yield every metric of proof and of causes; no label holds anything of a patient."""
    yield from _proof(jobs)
    causes = GaugeMetricFamily("carpus_jobs_by_cause", "Jobs that wait or failed, by cause.", labels=["state", "code"])
    held = Job.state.in_((State.FAILED, *WAITING)), Job.cause_code.is_not(None)
    with Session(jobs.engine) as session:
        grouped = select(Job.state, Job.cause_code, func.count()).where(*held).group_by(Job.state, Job.cause_code)
        for state, code, count in session.execute(grouped):
            causes.add_metric([state, code or ""], count)
    yield causes
    yield from _graphics(jobs)


def _proof(jobs: Jobs) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    now = jobs.now()
    count = GaugeMetricFamily(
        "carpus_unconfirmed_objects", "Objects accepted and not proved to be kept.", labels=["destination"]
    )
    oldest = GaugeMetricFamily(
        "carpus_unconfirmed_oldest_seconds", "Since the oldest of them was accepted.", labels=["destination"]
    )
    resent = CounterMetricFamily(
        "carpus_objects_not_kept", "Objects accepted and then not kept, each time counted.", labels=["destination"]
    )
    asked = CounterMetricFamily(
        "carpus_commitments",
        "Storage commitment requests, by our role: every one as asked, and again by what became of it.",
        labels=["role", "state"],
    )
    accepted = case((ResultObject.state == ResultState.ACCEPTED, 1), else_=0)
    since = case((ResultObject.state == ResultState.ACCEPTED, ResultObject.updated_at))
    columns = func.sum(accepted), func.min(since)
    again = select(ResultObject.destination, func.sum(ResultObject.resends)).group_by(ResultObject.destination)
    with Session(jobs.engine) as session:
        grouped = select(ResultObject.destination, *columns).group_by(ResultObject.destination)
        for destination, number, first in session.execute(grouped):
            count.add_metric([destination], number)
            oldest.add_metric([destination], (now - first).total_seconds() if first else 0)
        for destination, number in tallies.summed(session, again, tallies.NOT_KEPT).items():
            resent.add_metric([destination], number)
        told = select(Commitment.role, Commitment.state, func.count()).group_by(Commitment.role, Commitment.state)
        became = {(role, state): number for role, state, number in session.execute(told)}
        for role in sorted({role for role, _ in became}):
            # A request that has been answered stays one that was asked: a counter does not fall.
            every = sum(number for (whose, _), number in became.items() if whose == role)
            for state, number in {**_of_role(became, role), CommitmentState.ASKED: every}.items():
                asked.add_metric([role, state], number)
    yield from (count, oldest, resent, asked)


def _of_role(became: Mapping[tuple[str, str], int], role: str) -> dict[str, int]:
    return {state: number for (whose, state), number in became.items() if whose == role}


def _graphics(jobs: Jobs) -> Iterator[GaugeMetricFamily]:
    memory = GaugeMetricFamily(
        "carpus_gpu_memory_bytes", "Memory of the graphics processor a worker uses.", labels=["process", "kind"]
    )
    for beat in jobs.processes():
        for kind, value in ((beat.detail or {}).get("gpu_memory_bytes") or {}).items():
            memory.add_metric([beat.process, kind], value)
    yield memory


class StepTimes:
    """The duration of every step, as a histogram whose settled part is added up once and kept.

    What is kept is no more than a sum over the table, and over what retention removed from it before: another process, or this
    one after a restart, adds up the same.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._upto = 0  # the last event in the kept part
        self._kept: dict[str, list[float]] = {}  # by step: count, sum of milliseconds, count within each bucket
        self._shown: dict[
            str, list[float]
        ] = {}  # the last time; what is removed before it has settled must not be missed
        self._begun = False

    def family(self) -> HistogramMetricFamily:
        """Return the histogram now."""
        steps = HistogramMetricFamily("carpus_step_seconds", "Duration of each finished step.", labels=["step"])
        with self._lock, Session(self._jobs.engine) as session:
            if not self._begun:
                self._kept, self._begun = _removed(session), True
            before = self._jobs.now() - SETTLED_AFTER
            newer = and_(JobEvent.id > self._upto, JobEvent.at < before)
            last = session.scalar(select(func.max(JobEvent.id)).where(newer))
            if last is not None:
                _add(self._kept, step_sums(session, and_(JobEvent.id > self._upto, JobEvent.id <= last)))
                self._upto = last
            totals = {step: list(figures) for step, figures in self._kept.items()}
            _add(totals, step_sums(session, JobEvent.id > self._upto))
            for step, figures in self._shown.items():
                totals[step] = [max(pair) for pair in zip(figures, totals.get(step, figures), strict=True)]
            self._shown = totals
        for step, (count, total, *within) in sorted(totals.items()):
            pairs = zip(map(str, STEP_BUCKETS_SECONDS), within, strict=True)
            steps.add_metric([step], [*pairs, ("+Inf", count)], sum_value=total / 1000)
        return steps


def step_sums(session: Session, which: ColumnElement[bool]) -> Sequence[Row[Any]]:
    """Return (step, count, sum of milliseconds, count within each bucket) of some events."""
    within = [func.sum(case((JobEvent.milliseconds <= 1000 * limit, 1), else_=0)) for limit in STEP_BUCKETS_SECONDS]
    timed = select(JobEvent.code, func.count(), func.sum(JobEvent.milliseconds), *within)
    query = timed.where(JobEvent.milliseconds.is_not(None), which).group_by(JobEvent.code)
    return session.execute(query).all()


def removed_with(session: Session, job_ids: Sequence[int]) -> None:
    """Add what the counters count of these jobs to the tallies; the caller removes them in the same transaction."""
    of_them = ResultObject.job_id.in_(job_ids), ResultObject.resends > 0
    again = select(ResultObject.destination, func.sum(ResultObject.resends)).where(*of_them)
    rows = session.execute(again.group_by(ResultObject.destination)).all()
    tallies.add(session, tallies.NOT_KEPT, {destination: float(number) for destination, number in rows})
    for row in step_sums(session, JobEvent.job_id.in_(job_ids)):
        step: str = row[0]
        figures: list[float] = list(row[1:])
        for counter, figure in zip(_STEP_TALLIES, figures, strict=True):
            tallies.add(session, counter, {step: float(figure)})


def _removed(session: Session) -> dict[str, list[float]]:
    """Return the figures of every step of which events were removed."""
    columns = [tallies.of(session, counter) for counter in _STEP_TALLIES]
    return {step: [column.get(step, 0.0) for column in columns] for step in columns[0]}


def _add(totals: dict[str, list[float]], rows: Sequence[Row[Any]]) -> None:
    for row in rows:
        step: str = row[0]
        figures: list[float] = list(row[1:])
        before = totals.get(step, [0.0] * len(figures))
        totals[step] = [old + float(new) for old, new in zip(before, figures, strict=True)]
