"""Know one installation: one identifier for life, kept in its database, and one server at a time on a data directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import uids
from service.errors import Permanent
from service.settings import Settings
from service.tables import InstallationRecord


def device_uid(settings: Settings, engine: Engine) -> str:
    """Return the identifier of this installation as a device observer: the set one, else one made at first start and kept.

    It is kept in the database: delivery workers of several machines are one device, and a container may have no directory of
    its own to write to. A version before this one kept it in a file of the data directory, which is taken over.
    """
    if settings.device_uid:
        return settings.device_uid
    known = select(InstallationRecord.device_uid)
    with Session(engine) as session:
        found = session.scalar(known)
    if found is not None:
        return found
    earlier = settings.data_directory / "device_uid"
    made = earlier.read_text(encoding="ascii").strip() if earlier.exists() else ""
    made = made or uids.derive("device", os.urandom(16).hex())
    try:
        with Session(engine.execution_options(write=True)) as session, session.begin():
            session.add(InstallationRecord(id=1, device_uid=made))
    except IntegrityError:  # of two processes that start together one wins
        with Session(engine) as session:
            return session.scalars(known).one()
    return made


def software_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("carpus")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def locked(data_directory: Path) -> Iterator[None]:
    """Hold the data directory for one server; the kernel gives it back however the process ends.

    Raises
    ------
    Permanent
        When another server holds it.
    """
    data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data_directory / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Permanent(
                f"another server (process {lock.read().strip() or 'unknown'}) uses {data_directory}",
                code="data-directory-in-use",
                next_action="stop it, or give this one a data_directory of its own",
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
