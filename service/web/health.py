"""Tell a monitor whether the service works, and if not, what is wrong: database, processes, disk."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import db, metrics
from service.ledger import Life, life_of
from service.queue.jobs import Jobs
from service.queue.queues import refusing
from service.settings import Settings
from service.storage import Store
from service.trust import certificates
from service.web import display

REPLACED_SECONDS: Final = 60
OLDEST_CANARY_SECONDS: Final = 120
FORGOTTEN_SECONDS: Final = 24 * 3600  # a kind of process not seen for a day was taken out of service on purpose


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    text: str
    warning: bool = False  # works, and somebody should look at it


def checks(jobs: Jobs, store: Store, minimum_free_bytes: int) -> list[Check]:
    """Return everything that must hold for films to be received, read and delivered."""
    found = [_database(jobs)]
    if found[0].ok:
        found += _processes(jobs)
        found += _told_by_processes(jobs)
    found.append(_disk(store, minimum_free_bytes))
    return found


def certificate_checks(settings: Settings, now: dt.datetime) -> list[Check]:
    """Return one line for each TLS certificate of ours; one that expires soon is a warning and no fault."""
    found = []
    for each in certificates.in_use(settings):
        fault = each.fault(now)
        until = f"valid until {each.expires_at:%Y-%m-%d}" if each.expires_at else ""
        broken = each.expires_at is None or each.expires_at < now
        found.append(Check(f"certificate {each.name}", not broken, fault or until, warning=bool(fault) and not broken))
    return found


def _database(jobs: Jobs) -> Check:
    try:
        with jobs.engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM jobs WHERE id = 0"))
        return Check("database", True, f"{jobs.engine.dialect.name}, tables at {db.version(jobs.engine)}")
    except SQLAlchemyError as error:
        return Check("database", False, f"does not answer ({type(error).__name__})")


def _processes(jobs: Jobs) -> list[Check]:
    signs = metrics.signs_of_life(jobs)
    found = [_process(kind, sign) for kind, sign in signs.items() if sign.age_seconds < FORGOTTEN_SECONDS]
    if unseen := metrics.never_seen(signs):
        words = f"never seen: {', '.join(unseen)}; `carpus serve` starts them all, the log of each says why it does not start"
        return [*found, Check("processes", False, words)]
    return found or [Check("processes", False, "no process has given a sign of life for a day")]


def _process(kind: str, sign: metrics.Sign) -> Check:
    age = sign.age_seconds
    if (
        sign.life == Life.STOPPED
    ):  # one that is replaced ends in order too; a monitor hears of it when nothing takes its place
        return Check(
            kind, age <= REPLACED_SECONDS, f"stopped {display.duration(age)} ago", warning=age <= REPLACED_SECONDS
        )
    if sign.life == Life.ALIVE:
        return Check(kind, True, f"last sign of life {display.duration(age)} ago")
    words = f"no sign of life for {display.duration(age)}: it is started again by itself; if it stays silent, its log says why"
    return Check(kind, False, words)


def _told_by_processes(jobs: Jobs) -> list[Check]:
    """Return what processes say of themselves that keeps films from going on."""
    now, found = jobs.now(), []
    for each in refusing(jobs.processes(), now):
        found.append(Check(f"reception: {each['code']}", False, f"instances are refused for now: {each['text']}"))
    for beat in jobs.processes():
        detail = beat.detail or {}
        canary = detail.get("canary_seconds")
        if canary is not None and life_of(beat, now) == Life.ALIVE and not detail.get("busy"):
            silent = canary + (now - beat.at).total_seconds()
            words = f"a message it sent to itself came back {display.duration(silent)} ago"
            found.append(Check(f"messages to {beat.process}", silent <= OLDEST_CANARY_SECONDS, words))
    return found


def _disk(store: Store, minimum_free_bytes: int) -> Check:
    free = store.free_bytes()
    words = f"{display.size(free)} free, {display.size(minimum_free_bytes)} are kept in reserve"
    return Check("disk", free >= minimum_free_bytes, words)
