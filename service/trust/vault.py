"""Keep the way back from pseudonyms to identities: sealed records, every patient under a key of their own.

An SQLite file beside the keys, on the identified side. Each patient has a data key, sealed by the installation's newest sealing key;
with it are sealed the originals of the pseudonyms and, by job, the header as received. Who deletes the data key has made the
rest noise, in this file and in every copy of it that lacks the key.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag

from service.errors import Retryable
from service.settings import Settings
from service.storage import DiskFull
from service.trust.keys import KEY_BYTES
from service.trust.pseudonyms import Pseudonyms, broken, sealed, unsealed

FILE: Final = "vault.sqlite"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS patients (subject TEXT PRIMARY KEY, key BLOB NOT NULL, made TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS originals (
    pseudonym TEXT PRIMARY KEY, subject TEXT NOT NULL, record BLOB NOT NULL, made TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS headers (
    job INTEGER PRIMARY KEY, subject TEXT NOT NULL, record BLOB NOT NULL, made TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS originals_of ON originals (subject);
CREATE INDEX IF NOT EXISTS headers_of ON headers (subject);
"""


@dataclass(frozen=True, slots=True)
class Census:
    """What a vault holds: patients by the sealing key that opens their data key (0 the newest), records, and what opens no more."""

    patients: Mapping[int, int]
    lost: int
    originals: int
    headers: int


class Vault:
    """One file of sealed records; every process opens its own."""

    def __init__(self, path: Path, pseudonyms: Pseudonyms) -> None:
        """Open or make the file (mode 0600)."""
        self._path = path
        self._pseudonyms = pseudonyms
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with self._writing() as db:
            db.executescript(_TABLES)

    @classmethod
    def of(cls, settings: Settings, pseudonyms: Pseudonyms) -> Self:
        """Open the vault of an installation."""
        return cls(settings.data_directory / "keys" / FILE, pseudonyms)

    def remember(self, subject: str, originals: Mapping[str, str]) -> None:
        """Keep the originals of a patient, given by pseudonym; what is known already stays."""
        with self._writing() as db:
            key = self._key(db, subject)
            rows = [(name, subject, sealed(key, text.encode(), name), _now()) for name, text in originals.items()]
            db.executemany("INSERT OR IGNORE INTO originals VALUES (?, ?, ?, ?)", rows)

    def original(self, pseudonym: str) -> str | None:
        """Return what a pseudonym stands for; None when it is not known, or its patient was forgotten.

        Raises
        ------
        Permanent
            When the keys of this installation do not open it.
        """
        record = self._record("SELECT subject, record FROM originals WHERE pseudonym = ?", pseudonym, pseudonym)
        return None if record is None else record.decode()

    def keep_header(self, job: int, subject: str, header: bytes) -> None:
        """Keep the header of a job's film as it was received; a repeat replaces it."""
        with self._writing() as db:
            record = sealed(self._key(db, subject), header, f"job {job}")
            db.execute("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", (job, subject, record, _now()))

    def header(self, job: int) -> bytes | None:
        """Return the header kept for a job, or None when there is none, or its patient was forgotten.

        Raises
        ------
        Permanent
            When the keys of this installation do not open it.
        """
        return self._record("SELECT subject, record FROM headers WHERE job = ?", job, f"job {job}")

    def drop_header(self, job: int) -> None:
        """Remove the header of a job that has ended its life."""
        with self._writing() as db:
            db.execute("DELETE FROM headers WHERE job = ?", (job,))

    def shred(self, subject: str) -> bool:
        """Delete the data key of a patient, and with it every way back to them; return whether there was one.

        Copies of this file made before still hold the sealed data key: let backups of the keys folder expire, or rotate the
        sealing key, `carpus keys rewrap --drop-old`, and the old backups' data keys open no more.
        """
        with self._writing() as db:
            known = db.execute("DELETE FROM patients WHERE subject = ?", (subject,)).rowcount > 0
            db.execute("DELETE FROM originals WHERE subject = ?", (subject,))
            db.execute("DELETE FROM headers WHERE subject = ?", (subject,))
        return known

    def rewrap(self) -> int:
        """Seal every data key anew under the newest sealing key; return how many were under an older one."""
        moved = 0
        with self._writing() as db:
            for subject, wrapped in db.execute("SELECT subject, key FROM patients").fetchall():
                if self._pseudonyms.sealed_by(wrapped, _context(subject)) == 0:
                    continue
                key = self._pseudonyms.unseal(wrapped, _context(subject))
                fresh = self._pseudonyms.seal(key, _context(subject))
                db.execute("UPDATE patients SET key = ? WHERE subject = ?", (fresh, subject))
                moved += 1
        return moved

    def census(self) -> Census:
        """Count what is held, and under which keys."""
        with self._open() as db:
            rows = db.execute("SELECT subject, key FROM patients").fetchall()
            originals, headers = (
                int(db.execute(query).fetchone()[0])
                for query in ("SELECT count(*) FROM originals", "SELECT count(*) FROM headers")
            )
        by_key = [self._pseudonyms.sealed_by(wrapped, _context(subject)) for subject, wrapped in rows]
        known = [index for index in by_key if index is not None]
        return Census(
            {index: known.count(index) for index in sorted(set(known))}, len(by_key) - len(known), originals, headers
        )

    def _record(self, query: str, name: object, context: str) -> bytes | None:
        with self._open() as db:
            row = db.execute(query, (name,)).fetchone()
            held = None if row is None else db.execute("SELECT key FROM patients WHERE subject = ?", row[:1]).fetchone()
        if row is None or held is None:
            return None
        try:
            return unsealed(self._pseudonyms.unseal(held[0], _context(row[0])), row[1], context)
        except InvalidTag as error:
            raise broken() from error

    def _key(self, db: sqlite3.Connection, subject: str) -> bytes:
        """Return the data key of a patient, a fresh one for a new patient."""
        row = db.execute("SELECT key FROM patients WHERE subject = ?", (subject,)).fetchone()
        if row is not None:
            return self._pseudonyms.unseal(row[0], _context(subject))
        key = os.urandom(KEY_BYTES)
        wrapped = self._pseudonyms.seal(key, _context(subject))
        db.execute("INSERT INTO patients VALUES (?, ?, ?)", (subject, wrapped, _now()))
        return key

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only unlinked
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            db.commit()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection; what the disk or another writer does to it passes, and is said so."""
        try:
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as db:
                yield db
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise DiskFull(f"vault of sealed headers: {error}") from error
            raise Retryable(f"the vault of sealed headers cannot be used: {error}", code="vault-unavailable") from error


def _context(subject: str) -> str:
    return f"data key of {subject}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
