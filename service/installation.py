"""Know one installation by its data directory: one server at a time, one identifier for life."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service import uids
from service.errors import Permanent
from service.settings import Settings


def device_uid(settings: Settings) -> str:
    """Return the identifier of this installation as a device observer: the set one, else one made at first start and kept."""
    if settings.device_uid:
        return settings.device_uid
    path = settings.data_directory / "device_uid"
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(uids.derive("device", os.urandom(16).hex()), encoding="ascii")
        # Of two processes that start together one wins; a link, unlike a rename, never replaces.
        with suppress(FileExistsError):
            path.hardlink_to(part)
        part.unlink()
    return path.read_text(encoding="ascii").strip()


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
