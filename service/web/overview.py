"""Read what the pages show of films and their jobs; nothing here leaves the identified side but states, causes and readings."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from models.reading import MethodResult, Reading, Stage
from models.regions import RUS
from service.queue.jobs import FINAL, Jobs
from service.tables import AmendedJob, Instance, Job, JobEvent, Quarantined, ResultObject, ResultState, State

PAGE: Final = 50
QUARANTINED: Final = "QUARANTINED"  # no state of a job: the bytes never became one
SAME_UID: Final = "same-uid-other-bytes"
ALERT_LASTS: Final = dt.timedelta(days=7)
LARGEST_NUMBER: Final = 2**31 - 1  # of a row in PostgreSQL's integer
MOVING: Final = (State.RECEIVED, State.PREPARED, State.INFERRED, State.DELIVERED)
UNSENT: Final = (State.RECEIVED, State.PREPARED, State.INFERRED)
RETRYABLE: Final = (*UNSENT, State.FAILED, State.CANCELLED)
FINISHED: Final = (State.CONFIRMED, State.REJECTED, State.FILTERED)
CANCELLABLE: Final = (*UNSENT, State.FAILED)
AMENDABLE: Final = (State.DELIVERED, State.CONFIRMED)
REREADABLE: Final = (State.CONFIRMED, State.REJECTED, State.FILTERED, State.DELIVERED)


@dataclass(frozen=True, slots=True)
class Result:
    """The bone age a list shows: one number, or one for each sex."""

    years: tuple[float | None, ...]
    qualifier: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One film in the list."""

    job: Job
    peer: str
    age: dt.timedelta
    objects: Mapping[str, int]
    result: Result | None

    @property
    def waiting(self) -> bool:
        """Whether the job waits for a retry, its cause known."""
        return self.job.state in MOVING and self.job.cause_code is not None

    @property
    def took(self) -> dt.timedelta | None:
        """How long a finished film took from its reception, or None while it moves."""
        return self.job.state_since - self.job.created_at if self.job.state in FINISHED else None


@dataclass(frozen=True, slots=True)
class Attention:
    """One cause that holds films up, and what to do about it."""

    state: str
    code: str
    text: str
    next_action: str
    films: int
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """One file in quarantine and the film it belongs to or would have taken the place of."""

    entry: Quarantined
    film: int | None  # number of its newest job, under which the pages know it; None: no film is kept


@dataclass(frozen=True, slots=True)
class BoneLine:
    """One bone on the page of a film."""

    name: str
    stage: Stage
    score: float | None
    one_stage_down_years: float | None
    one_stage_up_years: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything the page of one film shows."""

    row: Row
    instance: Instance
    reading: Reading | None
    bones: Sequence[BoneLine]
    objects: Sequence[ResultObject]
    timeline: Sequence[JobEvent]
    final: bool
    actions: frozenset[str]
    amendment: AmendedJob | None


class Overview:
    """Questions the pages ask."""

    def __init__(self, jobs: Jobs) -> None:
        """Keep the repository."""
        self.jobs = jobs

    def rows(
        self, state: State | None, text: str, before_id: int | None = None, *, by_uid: bool = True
    ) -> tuple[list[Row], bool]:
        """Return one page of films, newest first, and whether there are more.

        Parameters
        ----------
        text
            A job's number, a UID or the accession number of the film in full, or part of the peer's AE title or of a cause.
        by_uid
            Whether the text is compared with what the PACS knows a film by: who must not know whose film it is could test guesses.
        """
        query = select(Job, Instance.calling_ae_title).join(Instance, Instance.id == Job.instance_id)
        # What was never meant to be read is shown only to who asks for it.
        query = query.where(Job.state == state if state else Job.state != State.FILTERED)
        if text:
            query = query.where(_matches(text, by_uid=by_uid))
        if before_id is not None:
            query = query.where(Job.id < before_id)
        with Session(self.jobs.engine, expire_on_commit=False) as session:
            found = [(job, peer) for job, peer in session.execute(query.order_by(Job.id.desc()).limit(PAGE + 1))]
            objects = self._objects(session, [job.id for job, _ in found])
        rows = [self._row(job, peer, objects.get(job.id, {})) for job, peer in found[:PAGE]]
        return rows, len(found) > PAGE

    def attention(self) -> list[Attention]:
        """Return the causes that hold films up, the one with most films first."""
        held = Job.state.in_([State.FAILED, *MOVING])
        query = (
            select(Job.state, Job.cause_code, func.count(), func.min(Job.state_since), func.max(Job.id))
            .where(held, Job.cause_code.is_not(None))
            .group_by(Job.state, Job.cause_code)
        )
        with Session(self.jobs.engine) as session:
            causes = []
            for state, code, films, since, last in session.execute(query):
                job = session.get_one(Job, last)
                causes.append(Attention(state, code or "", job.cause_text or "", job.next_action or "", films, since))
            causes += self._overwritten(session)
        return sorted(causes, key=lambda cause: (cause.state not in (State.FAILED, QUARANTINED), -cause.films))

    def _overwritten(self, session: Session) -> list[Attention]:
        """Return an alert where other bytes came under the identifier of a film that is kept."""
        young = Quarantined.last_at > self.jobs.now() - ALERT_LASTS
        query = select(func.count(), func.min(Quarantined.first_at), func.max(Quarantined.id))
        films, since, last = session.execute(query.where(Quarantined.cause_code == SAME_UID, young)).one()
        if not films:
            return []
        text = session.get_one(Quarantined, last).cause_text
        action = "compare both in quarantine; ask the sender which one is right; the first one stays in use"
        return [Attention(QUARANTINED, SAME_UID, text, action, films, since)]

    def detail(self, job_id: int) -> Detail:
        """Return everything about one job.

        Raises
        ------
        UnknownJob
            When there is none of this number.
        """
        job = self.jobs.get(job_id)
        instance = self.jobs.instance(job.instance_id)
        objects = self.jobs.results(job_id)
        counts: dict[str, int] = {}
        for each in objects:
            counts[each.state] = counts.get(each.state, 0) + 1
        reading = reading_of(job)
        state = State(job.state)
        allowed = {"amend": AMENDABLE, "retry": RETRYABLE, "cancel": CANCELLABLE, "requeue": REREADABLE}
        return Detail(
            self._row(job, instance.calling_ae_title, counts),
            instance,
            reading,
            _bones(reading) if reading else (),
            objects,
            self.jobs.timeline(job_id),
            final=state in FINAL,
            actions=frozenset(name for name, states in allowed.items() if state in states),
            amendment=self.jobs.amendment(job_id),
        )

    def quarantine(self) -> Sequence[QuarantinedFile]:
        """Return what is in quarantine, newest first."""
        with Session(self.jobs.engine) as session:
            return [QuarantinedFile(entry, _film_of(session, entry)) for entry in self.jobs.quarantined(limit=200)]

    def _row(self, job: Job, peer: str, objects: Mapping[str, int]) -> Row:
        result = None if job.reading is None else _result(job.reading)
        return Row(job, peer, self.jobs.now() - job.state_since, objects, result)

    @staticmethod
    def _objects(session: Session, job_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        columns = (ResultObject.job_id, ResultObject.state)
        query = select(*columns, func.count()).where(ResultObject.job_id.in_(job_ids)).group_by(*columns)
        counts: dict[int, dict[str, int]] = {}
        for job_id, state, count in session.execute(query):
            counts.setdefault(job_id, {})[ResultState(state).value] = count
        return counts


def _film_of(session: Session, entry: Quarantined) -> int | None:
    return session.scalar(select(func.max(Job.id)).where(Job.instance_id == entry.instance_id))


def _matches(text: str, *, by_uid: bool) -> ColumnElement[bool]:
    parts = [
        Instance.calling_ae_title.icontains(text, autoescape=True),
        Job.cause_code.icontains(text, autoescape=True),
        Job.cause_text.icontains(text, autoescape=True),
    ]
    if by_uid:
        columns = (Instance.SOPInstanceUID, Instance.StudyInstanceUID, Instance.accession_number)
        parts += [column == text for column in columns]
    number = job_number(text.removeprefix("#"))
    if number is not None:
        parts.append(Job.id == number)
    return or_(*parts)


def job_number(text: str) -> int | None:
    """Return the number of a job, or None for a text that cannot be one."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(LARGEST_NUMBER)):
        return None
    return number if (number := int(text)) <= LARGEST_NUMBER else None


def reading_of(job: Job) -> Reading | None:
    """Return the Reading kept with a job; None also for one in a form that this version does not know."""
    return None if job.reading is None else _parsed(job.reading)


def _parsed(text: str) -> Reading | None:
    try:
        return Reading.from_json(text)
    except (TypeError, ValueError, KeyError):
        return None


@lru_cache(maxsize=128)
def _result(text: str) -> Result | None:
    """Return what the list shows of a Reading; kept, because the list is drawn again every few seconds."""
    reading = _parsed(text)
    if reading is None or not reading.verdict.accepted:
        return None
    shown = default_methods(reading)
    return Result(
        tuple(method.bone_age_years for method in shown),
        next((method.qualifier for method in shown if method.qualifier), ""),
        reading.agreement.alarm,
    )


def default_methods(reading: Reading) -> tuple[MethodResult, ...]:
    """Return the results of the bundle's default method: one, or one for each sex when the sex is unknown."""
    name = reading.default_method or (reading.methods[0].name if reading.methods else None)
    return tuple(method for method in reading.methods if method.name == name)


def _bones(reading: Reading) -> tuple[BoneLine, ...]:
    shown = default_methods(reading)
    scored = next((m for m in (*shown, *reading.methods) if m.per_bone), None)
    lines = []
    for name in RUS:
        region = reading.region(name)
        if region is None or region.stage is None:
            continue
        part = scored.per_bone.get(name) if scored else None
        lines.append(
            BoneLine(
                name,
                region.stage,
                part.score if part else None,
                part.one_stage_down_years if part else None,
                part.one_stage_up_years if part else None,
                region.flags,
            )
        )
    return tuple(lines)
