"""Look at what this machine needs: disk, database, broker, processes, clocks, models, graphics processor."""

import datetime as dt
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from models import registry
from models.weights import WeightsRefused
from service import db, metrics, tasks
from service.checkup.finding import Finding, Verdict, good, skipped
from service.ledger import Life
from service.queue.jobs import Jobs, State
from service.settings import Settings
from service.trust.certificates import in_use
from service.web.display import duration

PLACE: Final = "this machine"
SLOW_FLUSH_SECONDS: Final = 0.1
SLOW_DATABASE_SECONDS: Final = 0.5
SKEW_SECONDS: Final = 2.0  # that a log or a report may differ from the PACS without confusing anybody
WORDS: Final = {Life.ALIVE: "alive, last heard of", Life.STOPPED: "stopped", Life.SILENT: "silent, last heard of"}

# By what a graphics processor is given to a process: CUDA itself, and NVIDIA's runtime for containers.
GPU_ASKED_BY: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia")
NO_GPU: Final = ("", "-1", "none", "void", "NoDevFiles")


def look(settings: Settings, jobs: Jobs, clock_url: str | None) -> Iterator[Finding]:
    """Yield what was found on this machine."""
    yield disk(settings)
    yield database(jobs)
    yield broker(settings, jobs)
    yield from processes(jobs)
    yield bundle(settings)
    yield processor(settings)
    yield from certificates(settings, jobs.now())
    yield database_clock(jobs)
    if clock_url is not None:
        yield http_clock(clock_url)


def disk(settings: Settings) -> Finding:
    """Write and flush a file where films are received, and compare the free space with the reserve."""
    folder, reserve = settings.data_directory / "identified", settings.limits.minimum_free_disk_bytes
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
            started = time.perf_counter()
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - started
    except OSError as error:
        action = "let this user write to data_directory, or set another one; with containers, ask the one that receives"
        return Finding(PLACE, "disk", Verdict.FAILED, f"{folder}: {error.strerror}", action)
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    words = f"{free / 1e9:.1f} GB free, {reserve / 1e9:.1f} GB in reserve; 1 MiB flushed in {seconds * 1000:.0f} ms"
    if free < reserve:
        action = (
            "make room on the disk of data_directory, or lower limits.minimum_free_disk_bytes; films are refused now"
        )
        return Finding(PLACE, "disk", Verdict.FAILED, words, action)
    if seconds > SLOW_FLUSH_SECONDS:
        return Finding(
            PLACE, "disk", Verdict.WARNING, words, "put data_directory on a faster disk: each film is flushed"
        )
    return good(PLACE, "disk", words)


def database(jobs: Jobs) -> Finding:
    """Write in a transaction that is taken back, and name the version of the tables."""
    started = time.perf_counter()
    try:
        with jobs.engine.execution_options(write=True).connect() as connection:
            connection.execute(text("UPDATE jobs SET updated_at = updated_at WHERE id = 0"))
            connection.rollback()
    except SQLAlchemyError as error:
        action = "start the database, or correct database_url"
        return Finding(PLACE, "database", Verdict.FAILED, f"does not take a write ({type(error).__name__})", action)
    seconds = time.perf_counter() - started
    words = f"{jobs.engine.dialect.name}, tables at {db.version(jobs.engine)}, a write takes {seconds * 1000:.0f} ms"
    if seconds > SLOW_DATABASE_SECONDS:
        return Finding(PLACE, "database", Verdict.WARNING, words, "see what keeps the database busy")
    return good(PLACE, "database", words)


def broker(settings: Settings, jobs: Jobs) -> Finding:
    """Ask the broker for the lengths of the queues."""
    publisher = tasks.Publisher(tasks.create_app(settings), jobs)
    waiting = {state: publisher.waiting(state) for state in (State.PREPARED, State.INFERRED)}
    if None not in waiting.values():
        return good(PLACE, "broker", f"answers; {sum(count or 0 for count in waiting.values())} messages wait")
    if settings.broker_url and publisher.is_turned_away():
        action = "correct the user and the password in broker_url; until then jobs go on from the database, more slowly"
        return Finding(PLACE, "broker", Verdict.FAILED, "answers, and does not let us in", action)
    if settings.broker_url:
        action = "start the broker, or correct broker_url; until then jobs go on from the database, more slowly"
        return Finding(PLACE, "broker", Verdict.FAILED, "does not answer", action)
    return Finding(PLACE, "broker", Verdict.WARNING, "the embedded Redis is not running", "start `carpus serve`")


def processes(jobs: Jobs) -> Iterator[Finding]:
    """Compare the signs of life with what a whole installation runs."""
    signs = metrics.signs_of_life(jobs)
    by_life = {
        life: [name for name in metrics.PROCESSES if name in signs and signs[name].life == life] for life in Life
    }
    said = []
    for life, names in by_life.items():
        ages = ", ".join(f"{name} {duration(signs[name].age_seconds)} ago" for name in names)
        said += [f"{WORDS[life]}: {ages}"] if names else []
    unseen = metrics.never_seen(signs)
    said += [f"never seen: {', '.join(unseen)}"] if unseen else []
    missing = [name for name in metrics.PROCESSES if name not in by_life[Life.ALIVE]]
    if not missing:
        yield good(PLACE, "processes", "; ".join(said))
        return
    action = f"start `carpus serve`, or on a cluster: {', '.join(f'carpus {name}' for name in missing)}"
    yield Finding(PLACE, "processes", Verdict.WARNING, "; ".join(said), action)


def bundle(settings: Settings) -> Finding:
    """Verify every byte of the weights that read the films."""
    try:
        found = registry.describe(settings.bundle, sha256=settings.bundle_sha256)
        registry.check_method(settings.default_method or found.default_method, found)
    except (registry.BundleRefused, WeightsRefused) as error:
        action = "install the bundle again, or set `bundle`, and `bundle_sha256` with it, to one that `carpus models` lists as verified"
        return Finding(PLACE, "models", Verdict.FAILED, str(error), action)
    return good(PLACE, "models", f"bundle {found.name} {found.version} verified, sha256 {found.sha256[:12]}")


def processor(settings: Settings) -> Finding:
    """Say what reads the films, and why no GPU does where the machine has one or the environment asks for one."""
    import torch

    if torch.cuda.is_available():
        return good(PLACE, "processor", f"GPU {torch.cuda.get_device_name(0)}")
    asked = [f"{name}={os.environ[name]}" for name in GPU_ASKED_BY if os.environ.get(name, "") not in NO_GPU]
    driver = NVIDIA_DRIVER.exists()
    if not asked and not driver:
        threads = f"{settings.inference_threads} thread{'s' if settings.inference_threads > 1 else ''}"
        return good(PLACE, "processor", f"no GPU; films are read on the CPU, {threads} (inference_threads)")
    words = (
        "there is a GPU that torch cannot use" if driver else f"a GPU is asked for ({', '.join(asked)}), none is there"
    )
    if torch.version.cuda is None:
        action = f"install a build of torch for CUDA (this one, {torch.__version__}, is for the CPU alone)"
    elif driver:
        action = f"install a driver for CUDA {torch.version.cuda} or later, or a build of torch for this driver"
    else:
        action = "install the NVIDIA driver; in a container, give it the GPU (docker run --gpus all, or devices in the composition)"
    action += f"; or unset {asked[0].partition('=')[0]}" if asked else ""
    return Finding(PLACE, "processor", Verdict.WARNING, words, f"{action}; until then films are read on the CPU")


def certificates(settings: Settings, now: dt.datetime) -> Iterator[Finding]:
    """Look at the certificates of TLS."""
    for each in in_use(settings):
        fault = each.fault(now)
        name = f"certificate {each.name}"
        if not fault:
            yield good(PLACE, name, f"valid until {each.expires_at:%Y-%m-%d}")
        else:
            broken = each.expires_at is None or each.expires_at < now
            action = "renew it; `carpus tls show` prints what is in use"
            yield Finding(PLACE, name, Verdict.FAILED if broken else Verdict.WARNING, fault, action)


def database_clock(jobs: Jobs) -> Finding:
    """Compare our clock with the database server's."""
    name = "clock, database"
    if jobs.engine.dialect.name != "postgresql":
        return skipped(PLACE, name, "SQLite has this machine's clock")
    try:
        with jobs.engine.connect() as connection:
            theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    except SQLAlchemyError as error:
        return skipped(PLACE, name, f"the database does not answer ({type(error).__name__})")
    return _skew(name, (jobs.now() - theirs).total_seconds(), "the database server")


def http_clock(url: str) -> Finding:
    """Compare our clock with the Date of an HTTP answer (RFC 9110 6.6.1), whatever its status."""
    name = "clock, PACS"
    if not url.startswith(("http://", "https://")):
        return Finding(PLACE, name, Verdict.FAILED, f"{url} is no http or https address", "correct --clock")
    before = dt.datetime.now(dt.UTC)
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the scheme was looked at
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    except OSError as error:
        return Finding(PLACE, name, Verdict.FAILED, f"{url} does not answer ({error})", "correct --clock")
    if date is None:
        return skipped(PLACE, name, f"{url} names no Date")
    between = before + (dt.datetime.now(dt.UTC) - before) / 2
    skew = (between - parsedate_to_datetime(date)).total_seconds() - 0.5  # a Date is cut to whole seconds
    return _skew(name, skew, url)


def _skew(name: str, seconds: float, where: str) -> Finding:
    words = f"ours is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} that of {where}"
    if abs(seconds) <= SKEW_SECONDS:
        return good(PLACE, name, words)
    action = "let both machines follow the same time server (chrony, systemd-timesyncd)"
    return Finding(PLACE, name, Verdict.WARNING, words, action)
