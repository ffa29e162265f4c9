"""Measure the service for Prometheus: every number is read from the database and the disk at the moment of the scrape.

Nothing is counted that the database does not hold, so the figures are the same from whichever process answers, and
survive a restart. No label holds anything of a patient: states, kinds, destinations, statuses, names of processes and steps.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import tallies
from service.ledger import Life, life_of
from service.queue import queue_metrics
from service.queue.jobs import Jobs
from service.sending import proof_metrics
from service.settings import Settings
from service.storage import Store
from service.tables import Instance, Quarantined, ResultObject
from service.trust import certificates

PROCESSES: Final = ("scp", "intake", "worker inference", "worker delivery", "web")  # what a whole installation runs
_PROCESS_ID = re.compile(r"[\s:/-]*\d+$")


def kind_of_process(name: str) -> str:
    """Return the name of a process without its number: "worker inference 4711" is a "worker inference"."""
    return _PROCESS_ID.sub("", name) or name


class ServiceCollector(Collector):
    """Reads the database and the disk whenever it is asked."""

    def __init__(self, jobs: Jobs, stores: Sequence[Store], settings: Settings | None = None) -> None:
        """Keep what is to be measured; nothing is read yet."""
        self.jobs = jobs
        self.stores = stores
        self.settings = settings
        self._step_times = proof_metrics.StepTimes(jobs)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Tell the registry nothing in advance, so that registering reads no database."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]:
        """Yield every metric; when the database is away only `carpus_database_up` 0 and the disk are left."""
        up = GaugeMetricFamily("carpus_database_up", "1 when the database answered this scrape.")
        elsewhere: dict[str, Room] = {}
        try:
            elsewhere = disks_of_others(self.jobs)
            families = [
                *self._jobs(),
                *queue_metrics.families(self.jobs),
                *self._objects(),
                *proof_metrics.families(self.jobs),
                self._step_times.family(),
                *self._processes(),
            ]
        except SQLAlchemyError:
            families = []
        up.add_metric([], 1 if families else 0)
        yield up
        yield from families
        yield from self._disk(elsewhere)
        if self.settings is not None:
            yield self._certificates(self.settings)

    def _jobs(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        by_state = GaugeMetricFamily("carpus_jobs", "Jobs by the state they are in.", labels=["state"])
        for state, count in self.jobs.counts().items():
            by_state.add_metric([state.value], count)
        yield by_state
        oldest = GaugeMetricFamily(
            "carpus_job_oldest_seconds", "How long the oldest unfinished job has been in its state.", labels=["state"]
        )
        for state, age in self.jobs.oldest().items():
            oldest.add_metric([state.value], age.total_seconds())
        yield oldest
        yield GaugeMetricFamily(
            "carpus_jobs_overdue", "Unfinished jobs past the deadline of their state.", value=self.jobs.count_overdue()
        )
        yield GaugeMetricFamily("carpus_backlog", "Instances received and not yet prepared.", value=self.jobs.backlog())

    def _objects(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        with Session(self.jobs.engine) as session:
            gone, gone_bytes = tallies.total(tallies.INSTANCES), tallies.total(tallies.BYTES)
            columns = func.count(Instance.id) + gone, func.coalesce(func.sum(Instance.byte_count), 0) + gone_bytes
            count, size = session.execute(select(*columns)).one()
            yield CounterMetricFamily("carpus_instances_received", "Instances received and acknowledged.", value=count)
            yield CounterMetricFamily("carpus_received_bytes", "Bytes of the instances acknowledged.", value=size)
            refused = CounterMetricFamily(
                "carpus_quarantined", "Received files that cannot be used, by cause.", labels=["code"]
            )
            query = select(Quarantined.cause_code, func.sum(Quarantined.count)).group_by(Quarantined.cause_code)
            for code, number in tallies.summed(session, query, tallies.QUARANTINED).items():
                refused.add_metric([code], number)
            yield refused
            objects = GaugeMetricFamily(
                "carpus_result_objects", "Objects made, by destination.", labels=["destination", "kind", "state"]
            )
            named = (ResultObject.destination, ResultObject.kind, ResultObject.state)
            for *labels, number in session.execute(select(*named, func.count()).group_by(*named)):
                objects.add_metric([str(label) for label in labels], number)
            yield objects
            statuses = GaugeMetricFamily(
                "carpus_store_responses", "Last C-STORE status of each object sent.", labels=["destination", "status"]
            )
            answered = ResultObject.status_code.is_not(None)
            answers = select(ResultObject.destination, ResultObject.status_code, func.count()).where(answered)
            for destination, status, number in session.execute(
                answers.group_by(ResultObject.destination, ResultObject.status_code)
            ):
                statuses.add_metric([destination, f"0x{status:04X}"], number)
            yield statuses

    def _processes(self) -> Iterator[GaugeMetricFamily]:
        ages = GaugeMetricFamily(
            "carpus_heartbeat_age_seconds", "Since the last sign of life of each kind of process.", labels=["process"]
        )
        up = GaugeMetricFamily(
            "carpus_process_up",
            "1 while a process of this kind is alive, 0 once it ended in order or is silent, or before the first was seen.",
            labels=["process"],
        )
        signs = signs_of_life(self.jobs)
        for kind, sign in signs.items():
            ages.add_metric([kind], sign.age_seconds)
            up.add_metric([kind], sign.life == Life.ALIVE)
        for kind in never_seen(signs):
            up.add_metric([kind], 0)
        yield from (ages, up)

    def _certificates(self, settings: Settings) -> GaugeMetricFamily:
        expiry = GaugeMetricFamily(
            "carpus_certificate_expires_timestamp_seconds",
            "When each of our TLS certificates expires; 0 when it cannot be read.",
            labels=["certificate"],
        )
        for each in certificates.in_use(settings):
            expiry.add_metric([each.name], each.expires_at.timestamp() if each.expires_at else 0)
        return expiry

    def _disk(self, elsewhere: Mapping[str, "Room"]) -> Iterator[GaugeMetricFamily]:
        free = GaugeMetricFamily("carpus_disk_free_bytes", "Free space of the disk of each store.", labels=["store"])
        size = GaugeMetricFamily("carpus_disk_size_bytes", "Size of the disk of each store.", labels=["store"])
        for name, room in {**elsewhere, **{store.root.name: room_of(store) for store in self.stores}}.items():
            free.add_metric([name], room.free)
            if room.size is not None:
                size.add_metric([name], room.size)
        yield from (free, size)


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on the disk of a store, and how large it is, in bytes."""

    free: int
    size: int | None  # a receiver of an earlier version does not tell it

    @property
    def used_percent(self) -> int | None:
        """What is not free, in whole percent."""
        return None if self.size is None else round(100 * (1 - self.free / max(self.size, 1)))


def room_of(store: Store) -> Room:
    """Look at the disk of a store."""
    return Room(store.free_bytes(), shutil.disk_usage(store.root).total)


def disks_of_others(jobs: Jobs) -> dict[str, Room]:
    """Return the disks of stores that this process may not see, as those who write there told it with their last sign of life."""
    now, found = jobs.now(), dict[str, Room]()
    for beat in jobs.processes():
        if life_of(beat, now) == Life.ALIVE:
            detail = beat.detail or {}
            sizes = detail.get("disk_size_bytes", {})
            found |= {name: Room(free, sizes.get(name)) for name, free in detail.get("disk_free_bytes", {}).items()}
    return found


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a kind of process."""

    life: Life
    age_seconds: float


def signs_of_life(jobs: Jobs) -> dict[str, Sign]:
    """Return of each kind of process the sign of the one that is best off: one that lives stands for its kind."""
    now = jobs.now()
    found: dict[str, Sign] = {}
    for beat in jobs.processes():
        kind, sign = kind_of_process(beat.process), Sign(life_of(beat, now), max(0.0, (now - beat.at).total_seconds()))
        other = found.get(kind, sign)
        found[kind] = min(sign, other, key=lambda each: (each.life != Life.ALIVE, each.age_seconds))
    return dict(sorted(found.items()))


def never_seen(signs: Mapping[str, Sign]) -> list[str]:
    """Return the kinds of process of a whole installation that have given no sign of life since the database was made."""
    return [kind for kind in PROCESSES if kind not in signs]


def registry(jobs: Jobs, stores: Sequence[Store], settings: Settings | None = None) -> CollectorRegistry:
    """Return a registry of our own; the global one would mix several services of one process."""
    own = CollectorRegistry()
    own.register(ServiceCollector(jobs, stores, settings))
    return own


def text(own: CollectorRegistry) -> bytes:
    """Return the page Prometheus reads."""
    return generate_latest(own)
