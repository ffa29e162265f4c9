"""Keep the audit trail: records chained by hash, the chain sealed under a key that the database does not hold.

Each record's hash covers its message and the hash before it, so a record that is changed, removed or put in breaks the chain.
Who can write to the database could compute a new chain; therefore the follower seals its end every few seconds with an HMAC under a
key of the identified side, and forwards the records to the hospital's repository where one is set.
"""

import datetime as dt
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.auditing.messages import AuditMessage, stated
from service.ledger import Ledger
from service.rows import appended
from service.tables import AuditCursor, AuditRecord, AuditSeal

CHAIN_LOCK: Final = 0x4175646974  # "Audit": one process appends to PostgreSQL at a time
FIRST: Final = "0" * 64  # what stands before the first record
PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verification of the whole trail came to; `fault` is empty when it is whole."""

    records: int
    sealed: int  # records that a seal vouches for
    fault: str = ""


class Trail(Ledger):
    """The audit trail of one installation."""

    def append(self, message: AuditMessage, *, source: str = "carpus") -> int:
        """Write one record at the end of the chain and return its number."""
        with self._write() as session:
            return self._appended(session, [message], source)

    def append_all(self, messages: list[AuditMessage], cursor: str, position: int, *, source: str = "carpus") -> None:
        """Write what was found up to a position of another table, together with that position: each row is told once."""
        with self._write() as session:
            self._appended(session, messages, source)
            session.merge(AuditCursor(name=cursor, position=position))

    def position(self, cursor: str) -> int:
        """Return how far a follower has come; 0 at the start."""
        with self._read() as session:
            row = session.get(AuditCursor, cursor)
            return 0 if row is None else row.position

    def moved(self, cursor: str, position: int) -> None:
        """Record how far a follower has come."""
        with self._write() as session:
            session.merge(AuditCursor(name=cursor, position=position))

    def records(
        self, *, after: int = 0, limit: int = PAGE, subject: str = "", actor: str = "", since: dt.datetime | None = None
    ) -> list[AuditRecord]:
        """Return records in their order, narrowed by patient (pseudonym), actor and time."""
        query = select(AuditRecord).where(AuditRecord.id > after)
        if subject:
            query = query.where(AuditRecord.subject == subject)
        if actor:
            query = query.where(AuditRecord.actor == actor)
        if since is not None:
            query = query.where(AuditRecord.at >= since)
        with self._read() as session:
            return [*session.scalars(query.order_by(AuditRecord.id).limit(limit))]

    def seal(self, key: bytes) -> bool:
        """Vouch for the chain up to its end; False when nothing was added since the last seal."""
        with self._write() as session:
            last = session.scalars(select(AuditRecord).order_by(AuditRecord.id.desc()).limit(1)).one_or_none()
            sealed = session.scalar(select(func.max(AuditSeal.record_id))) or 0
            if last is None or last.id <= sealed:
                return False
            mac = _mac(key, last.id, last.hash)
            session.add(AuditSeal(record_id=last.id, hash=last.hash, mac=mac, at=self.now()))
            return True

    def verify(self, key: bytes | None) -> Verdict:
        """Walk the whole trail; `key` checks the seals too, without it they are not trusted."""
        seals = self._seals(key)
        if isinstance(seals, str):
            return Verdict(0, 0, seals)
        previous, number, count, sealed = FIRST, 0, 0, 0
        for row in self._all():
            count += 1
            if row.id != number + 1:
                return Verdict(count, sealed, f"record {number + 1} is missing: {row.id} follows {number}")
            if row.previous != previous or row.hash != _digest(previous, row.id, row.at, row.message):
                return Verdict(count, sealed, f"record {row.id} was changed, or the one before it")
            if column := _differs(row):
                return Verdict(count, sealed, f"record {row.id} was changed: its {column} is not what its message says")
            if row.id in seals:
                if seals[row.id] != row.hash:
                    return Verdict(count, sealed, f"record {row.id} is not the one that was sealed")
                sealed = row.id
            previous, number = row.hash, row.id
        if seals and max(seals) > number:
            return Verdict(count, sealed, f"records {number + 1} to {max(seals)} were sealed and are gone")
        return Verdict(count, sealed)

    def _seals(self, key: bytes | None) -> dict[int, str] | str:
        if key is None:
            return {}
        with self._read() as session:
            rows = [*session.scalars(select(AuditSeal).order_by(AuditSeal.record_id))]
        for row in rows:
            if not hmac.compare_digest(row.mac, _mac(key, row.record_id, row.hash)):
                return f"the seal of record {row.record_id} is not ours"
        return {row.record_id: row.hash for row in rows}

    def _all(self) -> Iterator[AuditRecord]:
        after = 0
        while rows := self.records(after=after):
            yield from rows
            after = rows[-1].id

    @staticmethod
    def _appended(session: Session, messages: Sequence[AuditMessage], source: str) -> int:
        """Write records at the end of the chain; return the number of the last one."""
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAIN_LOCK})
        last = session.scalars(select(AuditRecord).order_by(AuditRecord.id.desc()).limit(1)).one_or_none()
        previous, number = (FIRST, 0) if last is None else (last.hash, last.id)
        records = []
        for message in messages:
            number += 1
            xml = message.to_xml(source=source)
            record: dict[str, Any] = {
                "id": number,
                "at": message.at,
                "event": message.event.name,
                "outcome": message.outcome.name,
                "actor": message.actor,
                "study": message.study or None,
                "subject": message.subject or None,
                "message": xml,
                "previous": previous,
                "hash": _digest(previous, number, message.at, xml),
            }
            records.append(record)
            previous = record["hash"]
        appended(session, AuditRecord, records)
        return number


def _differs(row: AuditRecord) -> str:
    """Return the first column that does not repeat what the message of the record says, or nothing."""
    try:
        told = stated(row.message)
    except ValueError:
        return "message"
    if row.event not in told.events:
        return "event"
    same = {"outcome": told.outcome, "actor": told.actor, "study": told.study, "subject": told.subject}
    return next((name for name, value in same.items() if getattr(row, name) != value), "")


def _digest(previous: str, number: int, at: dt.datetime, xml: str) -> str:
    text = f"{previous}\n{number}\n{at.astimezone(dt.UTC).isoformat()}\n{xml}"
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _mac(key: bytes, number: int, digest: str) -> str:
    return hmac.new(key, f"{number}\n{digest}".encode(), hashlib.sha256).hexdigest()
