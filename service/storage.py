"""Keep files durably: a name appears only when all its bytes are written, and `write` returns when both are on the disk.

Four stores under the data directory: `identified` (instances as received), `deidentified` (the only one an inference worker
sees), `results` (objects made, until the PACS has confirmed them) and `quarantine` (what cannot be used, kept with its cause).
Names are made here, at random or by the caller from a safe alphabet; no value received from a peer ever becomes part of a path.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.errors import Permanent, Retryable

Buffer = bytes | bytearray | memoryview

PART = ".part"
BLOCK_BYTES = 4096  # of memory and of most disks: what direct writes must be a multiple of
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where there is no such thing
PIECE_BYTES = 1024**2  # of a direct write: what a flush beside it waits for
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_NAME = re.compile(r"[0-9a-z]{2}/[0-9a-z][0-9a-z_-]{1,95}\.[a-z0-9]{1,8}")
_STEM = re.compile(r"[0-9a-z][0-9a-z_-]{1,95}")


class DiskFull(Retryable):
    """The disk has less free space than is kept in reserve."""

    code = "disk-full"


class NotAFile(Permanent):
    """Somebody put something else under the name of a file: a pipe would be waited for, a device may never end."""

    code = "not-a-file"

    def __init__(self, path: Path, mode: int) -> None:
        """Name the path and what is there."""
        kind = next((word for is_one, word in _KINDS if is_one(mode)), "something else")
        super().__init__(f"{path} is {kind} and no file")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is on the disk: its name within the store, and what was written."""

    name: str
    sha256: str
    byte_count: int


class Store:
    """One folder of files that are either complete or absent.

    Parameters
    ----------
    root
        Folder of the store; made when it is missing, readable by its owner only.
    minimum_free_bytes
        Space that stays free; a write that would go below it is refused before it begins.
    direct
        Write past the page cache what comes in one piece that begins at a page of memory: for files that come in faster than they
        are read. It costs a third of the processor's time, and an acknowledgement does not wait while the kernel looks for
        pages to give up. One file is written at a time, in short pieces: a flush, of the database too, waits for all that the
        disk has been given before it.
    """

    def __init__(self, root: Path, *, minimum_free_bytes: int = 0, direct: bool = False) -> None:
        self.root = root
        self._folder = str(root)  # of the names that are written
        self._direct = direct
        self._writing_directly = threading.Lock()
        self.minimum_free_bytes = minimum_free_bytes
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(
        self,
        data: Buffer | Iterable[Buffer],
        *,
        suffix: str = ".dcm",
        name: str | None = None,
        hashed: bool = True,
    ) -> Stored:
        """Write to a `.part` file, give it its name, flush file and folder to the disk; only then return.

        A file that may replace another is flushed before it does. One that has a name of its own is flushed after: the file system
        then writes its journal once for both.

        Parameters
        ----------
        data
            The bytes, or pieces of them in order.
        suffix
            Ending of the name.
        name
            Stem of the name (small letters, digits, `-`, `_`) where a repeat should replace the same file; random when None.
        hashed
            Whether the SHA-256 of the file is wanted; empty where the caller knows one that serves it better.

        Raises
        ------
        DiskFull
            When the free space is below the reserve, or the disk filled up while writing; nothing is left behind.
        """
        once = uuid.uuid4().hex
        stem = once if name is None else name
        if not _STEM.fullmatch(stem):
            raise Permanent(f"{stem!r} cannot name a file; small letters, digits, '-' and '_' can", code="unsafe-name")
        self.check_free()
        shard = stem[:2] if name is None else hashlib.sha256(stem.encode()).hexdigest()[:2]
        folder = f"{self._folder}/{shard}"
        part, target = f"{folder}/{once}{PART}", f"{folder}/{stem}{suffix}"
        views = [memoryview(each).cast("B") for each in ([data] if isinstance(data, Buffer) else data)]
        appeared = part
        try:
            with self._created(part, folder) as descriptor:
                self._put(descriptor, views)
                if name is not None:
                    os.fsync(descriptor)
                os.replace(part, target)  # noqa: PTH105 - a film's worth of paths costs more than its flushes
                appeared = target
                if name is None:
                    os.fsync(descriptor)
                _flush_folder(folder)
        except OSError as error:
            Path(appeared).unlink(missing_ok=True)
            raise DiskFull(
                f"{self.root.name} store: {os.strerror(error.errno or 0)} with {self.free_bytes()} bytes free",
                next_action="make room on the disk of the data directory",
            ) from error
        except BaseException:
            Path(appeared).unlink(missing_ok=True)
            raise
        return Stored(f"{shard}/{stem}{suffix}", _sha256(views) if hashed else "", sum(map(len, views)))

    @contextmanager
    def _created(self, part: str, folder: str) -> Iterator[int]:
        """Create a file to write, and its folder where it is missing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(part, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(folder, 0o700, exist_ok=True)  # noqa: PTH103
            _flush_folder(self._folder)
            descriptor = os.open(part, flags, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _put(self, descriptor: int, views: Sequence[memoryview]) -> None:
        """Write everything, past the page cache what can be."""
        for view in views:
            done = 0
            if self._direct and len(views) == 1:
                with self._writing_directly:
                    done = _written_directly(descriptor, view)
            _write_all(descriptor, view[done:])

    def path(self, name: str) -> Path:
        """Return the path of a stored name.

        Raises
        ------
        Permanent
            When the name is not one this store gives, for instance because it leads out of the store.
        """
        if not _NAME.fullmatch(name):
            raise Permanent(f"{name!r} is not a name of the {self.root.name} store", code="unsafe-name")
        return self.root / name

    def read(self, name: str) -> bytes:
        """Return the bytes of a stored file.

        Raises
        ------
        NotAFile
            When something else is there; it is not waited for.
        """
        path = self.path(name)
        _check_kind(path, path.stat().st_mode)
        with os.fdopen(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"
        ) as file:  # opening a pipe waits for its other end
            _check_kind(path, os.fstat(file.fileno()).st_mode)
            return file.read()

    def holds(self, name: str, sha256: str) -> bool:
        """Say whether a stored file is there with the bytes that were written.

        Raises
        ------
        NotAFile
            When something else is there.
        """
        try:
            return hashlib.sha256(self.read(name)).hexdigest() == sha256
        except OSError:  # gone, or a part of the disk that cannot be read any more
            return False

    def remove(self, name: str) -> None:
        """Remove a stored file; one that is gone already is no error."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            _flush_folder(path.parent)

    def names(self) -> Iterator[str]:
        """Yield the names of all complete files."""
        for path in self.root.glob("??/*"):
            if path.suffix != PART:
                yield f"{path.parent.name}/{path.name}"

    def sweep(self, *, older_than_seconds: float = 0) -> int:
        """Remove the `.part` files that interrupted writes left; return how many.

        Where other processes may be writing, leave the young ones alone, or hold `writing`.
        """
        limit = time.time() - older_than_seconds
        removed = 0
        for part in self.root.glob(f"??/*{PART}"):
            with suppress(FileNotFoundError):
                if part.stat().st_mtime <= limit:
                    part.unlink()
                    removed += 1
        return removed

    @contextmanager
    def writing(self, recover: Callable[[], None]) -> Iterator[None]:
        """Be a writer of this store while the context lasts; the first one runs `recover` before any other may write.

        The folders that names are spread over are made before: a film should not wait until its own is on the disk.

        The kernel takes the lock from a process that dies, however it dies, so `recover` may treat what it finds as left over.
        """
        with (self.root / ".writers").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._spread()
                recover()
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def _spread(self) -> None:
        """Make the folders that are missing."""
        missing = [folder for number in range(256) if not (folder := self.root / f"{number:02x}").is_dir()]
        for folder in missing:
            folder.mkdir(mode=0o700, exist_ok=True)
        if missing:
            _flush_folder(self.root)

    def free_bytes(self) -> int:
        """Return the free space of the disk that holds the store."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def check_free(self) -> None:
        """Raise DiskFull when less than the reserve is free."""
        free = self.free_bytes()
        if free < self.minimum_free_bytes:
            raise DiskFull(
                f"{free} bytes free, {self.minimum_free_bytes} are kept in reserve",
                next_action="make room on the disk of the data directory, or lower limits.minimum_free_disk_bytes",
            )


@dataclass(frozen=True, slots=True)
class Stores:
    """The four stores of one data directory."""

    identified: Store
    deidentified: Store
    results: Store
    quarantine: Store

    @classmethod
    def open(cls, data_directory: Path, *, minimum_free_bytes: int = 0) -> Self:
        """Open the stores, making the folders that are missing.

        The reserve holds for what is received; what was acknowledged may use it to be finished.
        """
        return cls(
            identified=Store(data_directory / "identified", minimum_free_bytes=minimum_free_bytes, direct=True),
            deidentified=Store(data_directory / "deidentified"),
            results=Store(data_directory / "results"),
            quarantine=Store(data_directory / "quarantine"),
        )


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFile(path, mode)


def _sha256(views: Sequence[memoryview]) -> str:
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.hexdigest()


def _written_directly(descriptor: int, view: memoryview) -> int:
    """Write whole blocks past the page cache; return how many bytes that was, 0 where memory or file system do not allow it."""
    whole = len(view) - len(view) % BLOCK_BYTES
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, DIRECT)
    except OSError:  # as tmpfs of old kernels
        return 0
    written = 0
    try:
        while written < whole:
            written += os.write(descriptor, view[written : min(written + PIECE_BYTES, whole)])
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # memory or blocks of another size, or a file system that says only now that it cannot
            raise
    fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    return written


def _write_all(descriptor: int, view: memoryview) -> None:
    written = 0
    while written < len(view):
        written += os.write(descriptor, view[written:])


def _flush_folder(folder: str | Path) -> None:
    """Flush a folder's entries: without it a new name may be gone after a power cut (fsync(2), NOTES)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
