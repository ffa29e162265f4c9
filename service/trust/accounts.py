"""Know who may use the pages: people with a role and a password or an identity provider, and services with a token.

Passwords are kept as argon2 hashes, tokens as SHA-256. Failed log-ins are kept in the database too, so that a restart gives no
fresh tries; a name somebody typed is kept only as a keyed hash, because it may be a password in the wrong field.
"""

import datetime as dt
import hashlib
import ipaddress
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Permanent
from service.ledger import utc_now
from service.tables import Account, LoginFailure

SHORTEST_PASSWORD: Final = (
    12  # characters; long enough against guessing under a lock-out, argon2 against a stolen table
)
LONGEST_PASSWORD: Final = 1024
LONGEST_NAME: Final = 64
TOKEN_PREFIX: Final = "carpus_"  # noqa: S105 - lets a scanner for leaked secrets recognise one
FAILURES_ALLOWED: Final = 5  # within LOCK, by one address or for one name
LOCK: Final = dt.timedelta(minutes=15)
ATTEMPT_LOCK: Final = 0x436172707574  # of PostgreSQL: one try is counted at a time
# argon2 takes 64 MiB a check: two at a time are enough for people, and guessers cannot exhaust the memory.
_CHECKS: Final = BoundedSemaphore(2)


class Role(StrEnum):
    """What a user is here for; what each may do stands in `service.web.permissions`."""

    VIEWER = "viewer"  # sees films by pseudonym
    RADIOLOGIST = "radiologist"  # sees whose film it is, corrects readings
    ADMINISTRATOR = "administrator"  # runs the service
    SERVICE = "service"  # a monitor: a token, no password


@dataclass(frozen=True, slots=True)
class User:
    """Somebody known."""

    name: str
    role: Role
    observer_name: str  # PS3.5 6.2 PN: who stands as observer in what this person corrects
    disabled: bool
    changed_at: dt.datetime  # of password, role or state: sessions that began before are over
    source: str  # "local", or the issuer of an identity provider


class UnknownUser(Permanent):
    """There is no such user, or what was asked does not fit."""

    code = "unknown-user"


class Accounts:
    """The table of users.

    Parameters
    ----------
    engine
        From `service.db.connect`, migrated.
    clock
        Source of aware UTC times.
    """

    def __init__(self, engine: Engine, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, name: str, role: Role, *, password: str | None = None, observer_name: str = "") -> str | None:
        """Add a user; return the token of a service, which is shown this once.

        Raises
        ------
        UnknownUser
            When the name is taken or unusable, the password too short, or role and password do not fit.
        """
        token = secrets.token_urlsafe(32) if role is Role.SERVICE else None
        if (password is None) is not (role is Role.SERVICE):
            raise UnknownUser("a service has a token and no password; everybody else has a password")
        self._insert(
            name,
            role,
            observer_name,
            password_hash=_hashed(password) if password is not None else None,
            token_sha256=_digest(TOKEN_PREFIX + token) if token else None,
        )
        return TOKEN_PREFIX + token if token else None

    def list(self) -> Sequence[User]:
        """Return everybody, by name."""
        with Session(self._engine) as session:
            return [_user(row) for row in session.scalars(select(Account).order_by(Account.name))]

    def find(self, name: str) -> User | None:
        """Return a user, or None."""
        with Session(self._engine) as session:
            row = session.scalar(select(Account).where(Account.name == name))
            return _user(row) if row else None

    def any_administrator(self) -> bool:
        """Whether somebody could log in and run the service."""
        return any(user.role is Role.ADMINISTRATOR and not user.disabled for user in self.list())

    def set_password(self, name: str, password: str) -> str | None:
        """Change a password; for a service, whose password does not count, return a new token."""
        with self._changing(name) as row:
            if row.source != "local":
                raise UnknownUser(f"{name!r} logs in at {row.source}; the password is kept there")
            if row.role != Role.SERVICE:
                row.password_hash = _hashed(password)
                return None
            token = TOKEN_PREFIX + secrets.token_urlsafe(32)
            row.token_sha256 = _digest(token)
            return token

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Lock a user out, or let them in again; sessions under way end."""
        with self._changing(name) as row:
            row.disabled = disabled

    def set_role(self, name: str, role: Role, observer_name: str | None = None) -> None:
        """Give a person another role, and another observer name where one is given; sessions under way end."""
        with self._changing(name) as row:
            if Role.SERVICE in (role, row.role):
                raise UnknownUser("a service stays one, and nobody becomes one: add it under a name of its own")
            row.role = role
            if observer_name is not None:
                row.observer_name = _observer(observer_name)

    def pin(self, name: str, password_hash: str) -> None:
        """Make sure that an administrator of this name has exactly this hash, as the settings demand."""
        found = self.find(name)
        if found is None:
            try:
                self._insert(name, Role.ADMINISTRATOR, "", password_hash=password_hash)
            except UnknownUser:
                if self.find(name) is None:
                    raise
            return
        with Session(self._engine) as session:
            row = session.scalars(select(Account).where(Account.name == name)).one()
            same = row.password_hash == password_hash and row.role == Role.ADMINISTRATOR and not row.disabled
        if not same:
            with self._changing(name) as row:
                row.password_hash, row.role, row.disabled = password_hash, Role.ADMINISTRATOR, False

    def admitted(self, name: str, password: str) -> User | None:
        """Return who has this name and password; takes as long for a wrong name as for a wrong password."""
        with Session(self._engine) as session:
            row = session.scalar(select(Account).where(Account.name == name[: LONGEST_NAME + 1]))
            known = row is not None and row.password_hash is not None and not row.disabled
            kept = row.password_hash if row is not None and known else None
        with _CHECKS:
            try:
                PasswordHasher().verify(kept or _nobodys_hash(), password[:LONGEST_PASSWORD])
            except (VerificationError, InvalidHashError):
                return None
        return _user(row) if row is not None and known else None

    def by_token(self, token: str) -> User | None:
        """Return the service whose token this is."""
        if not token.startswith(TOKEN_PREFIX):
            return None
        with Session(self._engine) as session:
            row = session.scalar(select(Account).where(Account.token_sha256 == _digest(token)))
            return _user(row) if row is not None and not row.disabled else None

    def from_provider(self, issuer: str, subject: str, name: str, role: Role, observer_name: str) -> User:
        """Return the user whom an identity provider vouches for, with the role it gives today.

        Raises
        ------
        UnknownUser
            When the user is disabled here, or the name belongs to somebody else.
        """
        who = f"{issuer}#{subject}"
        with Session(self._engine) as session:
            row = session.scalar(select(Account).where(Account.subject == who))
            found = _user(row) if row else None
        if found is None:
            self._insert(name, role, observer_name, source=issuer, subject=who)
            return self._known(name)
        if found.disabled:
            raise UnknownUser(f"{found.name!r} is disabled here")
        if (found.role, found.observer_name) != (role, _observer(observer_name)):
            with self._changing(found.name) as row:
                row.role, row.observer_name = role, _observer(observer_name)
        return self._known(found.name)

    def _known(self, name: str) -> User:
        found = self.find(name)
        if found is None:
            raise UnknownUser(f"there is no user {name!r}", next_action="`carpus users list` names everybody")
        return found

    def _insert(self, name: str, role: Role, observer_name: str, **columns: str | None) -> None:
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()):
            raise UnknownUser(f"a name has 1 to {LONGEST_NAME} printable characters; {name!r} cannot be one")
        now = self._clock()
        row = Account(name=name, role=role, observer_name=_observer(observer_name), created_at=now, changed_at=now)
        for column, value in ({"source": "local"} | columns).items():
            setattr(row, column, value)
        try:
            with Session(self._engine.execution_options(write=True)) as session, session.begin():
                session.add(row)
        except IntegrityError:
            raise UnknownUser(f"the name {name!r} is taken") from None

    @contextmanager
    def _changing(self, name: str) -> Iterator[Account]:
        with Session(self._engine.execution_options(write=True)) as session, session.begin():
            row = session.scalar(select(Account).where(Account.name == name))
            if row is None:
                raise UnknownUser(f"there is no user {name!r}", next_action="`carpus users list` names everybody")
            yield row
            row.changed_at = self._clock()


class Lockout:
    """Refuse an address, or a name, after too many wrong passwords; kept in the database.

    Parameters
    ----------
    secret_key
        Keys the hashes under which addresses and names are kept.
    """

    def __init__(self, engine: Engine, secret_key: str, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._engine = engine
        self._key = hashlib.sha256(b"carpus-lockout" + secret_key.encode()).digest()
        self._clock = clock

    def attempt(self, *, address: str, name: str) -> int:
        """Count one try for both; return how long (s) a lock still holds, 0 when the password may be looked at.

        Counted before the password is checked, in one transaction: many tries at once are no more than as many in a row.
        """
        now, left = self._clock(), [dt.timedelta(0)]
        keys = self._keys(address, name)
        with Session(self._engine.execution_options(write=True)) as session, session.begin():
            if self._engine.dialect.name == "postgresql":  # SQLite has one writer anyway
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ATTEMPT_LOCK})
            session.execute(delete(LoginFailure).where(LoginFailure.at <= now - LOCK))  # too old to count
            for key in keys:
                recent = select(LoginFailure.at).where(LoginFailure.key == key).order_by(LoginFailure.at.desc())
                times = session.scalars(recent.limit(FAILURES_ALLOWED)).all()
                if len(times) >= FAILURES_ALLOWED:
                    left.append(LOCK - (now - times[0]))
            if len(left) == 1:
                session.add_all([LoginFailure(key=key, at=now) for key in keys])
        return math.ceil(max(left).total_seconds())

    def succeeded(self, *, address: str, name: str) -> None:
        """Forget the tries of both."""
        with Session(self._engine.execution_options(write=True)) as session, session.begin():
            session.execute(delete(LoginFailure).where(LoginFailure.key.in_(self._keys(address, name))))

    def _keys(self, address: str, name: str) -> tuple[str, str]:
        return self._keyed(f"address {_network(address)}"), self._keyed(f"name {name}")

    def _keyed(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).hexdigest()


def _network(address: str) -> str:
    """Return what one guesser has: an IPv4 address, or the 64 bits that a provider gives to an IPv6 host."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed if parsed.version == 4 else ipaddress.ip_network(f"{parsed}/64", strict=False))


def _user(row: Account) -> User:
    return User(row.name, Role(row.role), row.observer_name, row.disabled, row.changed_at, row.source)


def _hashed(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UnknownUser(
            f"the password has {len(password)} characters; {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} are needed"
        )
    return PasswordHasher().hash(password)


def _observer(name: str) -> str:
    """Check a person's name in the form of PS3.5 6.2 (PN): components separated by ^, no backslash, 64 characters."""
    if len(name) > 64 or "\\" in name or not name.isprintable():
        raise UnknownUser(f"an observer name has at most 64 characters and no backslash; {name!r} cannot be one")
    return name


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()  # 256 random bits need no slow hash


@cache
def _nobodys_hash() -> str:
    return PasswordHasher().hash(secrets.token_urlsafe(16))
