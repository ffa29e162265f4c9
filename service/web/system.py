"""Read what the system page shows: processes, disks, the models in use, versions and the settings that matter to a PACS."""

import datetime as dt
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.reading import Bundle
from service import metrics
from service.ledger import Life, life_of
from service.profiles import Profiles
from service.queue.jobs import Jobs
from service.settings import Destination, Settings
from service.storage import Store
from service.tables import Heartbeat, Job
from service.web.health import Check, certificate_checks, checks
from service.web.overview import reading_of

LIBRARIES: Final = ("pydicom", "pynetdicom", "highdicom", "torch", "celery", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Process:
    """One process and its last sign of life."""

    beat: Heartbeat
    age: dt.timedelta
    life: Life


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that holds one store."""

    store: str
    room: metrics.Room
    reserve: int | None  # films are refused when less is free


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """Everything the system page shows."""

    checks: Sequence[Check]
    processes: Sequence[Process]
    disks: Sequence[Disk]
    bundle: Bundle | None  # of the newest reading
    versions: Sequence[tuple[str, str]]
    settings: Settings
    profiles: Mapping[str, str]  # of each destination, in words


def facts(jobs: Jobs, stores: Sequence[Store], settings: Settings) -> SystemFacts:
    """Read everything once."""
    now = jobs.now()
    found = checks(jobs, stores[0], settings.limits.minimum_free_disk_bytes) + certificate_checks(settings, now)
    processes = []
    for beat in jobs.processes():
        processes.append(Process(beat, now - beat.at, life_of(beat, now)))
    with Session(jobs.engine) as session:
        newest = session.scalar(select(Job).where(Job.reading.is_not(None)).order_by(Job.id.desc()).limit(1))
        reading = reading_of(newest) if newest else None
    return SystemFacts(
        found,
        processes,
        _disks(jobs, stores, settings.limits.minimum_free_disk_bytes),
        reading.bundle if reading else None,
        [("Carpus", carpus_version()), ("Python", platform.python_version()), *_libraries()],
        settings,
        {destination.name: _profile(jobs, settings, destination) for destination in settings.destinations},
    )


def _disks(jobs: Jobs, stores: Sequence[Store], reserve: int) -> list[Disk]:
    own = {store.root.name: metrics.room_of(store) for store in stores}
    # Only what receives films is refused room: what was acknowledged may use the reserve to be finished.
    disks = [Disk(name, room, reserve) for name, room in metrics.disks_of_others(jobs).items() if name not in own]
    return disks + [Disk(name, room, None) for name, room in own.items()]


def _profile(jobs: Jobs, settings: Settings, destination: Destination) -> str:
    name, profile = Profiles(jobs.engine, settings).of(destination)
    return f"{name}: {', '.join(profile.objects)}"


def carpus_version() -> str:
    """Return the version of the installed distribution."""
    return _version("carpus")


def _libraries() -> list[tuple[str, str]]:
    return [(name, _version(name)) for name in LIBRARIES]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def detail_of(beat: Heartbeat) -> list[str]:
    """Return in words what a process says of itself; its canary has a card of its own."""
    detail = beat.detail or {}
    said = [f"refuses for now: {each['code']}" for each in detail.get("refusing", [])]
    if "stopped" in detail:
        said.append("stopped")
    if "busy" in detail:
        said.append("at work" if detail["busy"] else "idle")
    if "steps" in detail:
        said.append(f"{detail['steps']} steps done")
    if "host" in detail:
        said.append(f"on {detail['host']}")
    return said
