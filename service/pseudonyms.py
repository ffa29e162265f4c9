"""Replace identities by keyed pseudonyms, and keep the way back under seal.

Pseudonyms are HMAC-SHA256 of the original under a key of the installation: the same patient gets the same pseudonym in every
study, and nobody without the key can test a guess. The way back is a map of sealed records (AES-256-GCM); without the
key it is noise. Only the identified side of the service opens this module's files.
"""

import base64
import hashlib
import hmac
import json
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import InvalidConfiguration, Permanent

KEY_BYTES = 32
NONCE_BYTES = 12  # NIST SP 800-38D 5.2.1.1: 96 bits, drawn afresh for every record
PSEUDONYM_CHARACTERS = 12  # 60 bits of base32; with a prefix of two it fits SH (16 characters, PS3.5 6.2)
SHIFT_DAYS = (366, 3653)  # dates move one to ten years into the past


@dataclass(frozen=True, slots=True)
class Keys:
    """One key for pseudonyms, which must never change, and the sealing keys, of which the newest seals."""

    pseudonym: bytes = field(repr=False)
    seals: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse keys of the wrong length."""
        for key in (self.pseudonym, *self.seals):
            if len(key) != KEY_BYTES:
                raise InvalidConfiguration(f"a pseudonym key has {len(key)} bytes; {KEY_BYTES} are needed")
        if not self.seals:
            raise InvalidConfiguration("no sealing key; at least one is needed")

    @classmethod
    def generate(cls) -> Self:
        """Draw fresh keys from the operating system."""
        return cls(os.urandom(KEY_BYTES), (os.urandom(KEY_BYTES),))

    def rotated(self) -> Self:
        """Return the keys with a new sealing key in front; records under the old ones stay readable."""
        return type(self)(self.pseudonym, (os.urandom(KEY_BYTES), *self.seals))

    def to_json(self) -> str:
        """Return the form the key file holds."""
        return json.dumps(
            {
                "pseudonym": base64.b64encode(self.pseudonym).decode(),
                "seals": [base64.b64encode(k).decode() for k in self.seals],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the form the key file holds.

        Raises
        ------
        InvalidConfiguration
            When the text is not a key file.
        """
        try:
            data = json.loads(text)
            return cls(base64.b64decode(data["pseudonym"]), tuple(base64.b64decode(key) for key in data["seals"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidConfiguration(
                "the key file is not one of ours",
                next_action="restore it from a backup; with another key no pseudonym can be traced back",
            ) from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all; an existing file is left as it is.

    Raises
    ------
    FileExistsError
        When another process was first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike rename, link never replaces a key that another process has just made
    finally:
        part.unlink(missing_ok=True)


class Pseudonyms:
    """Derive every pseudonym of one installation."""

    def __init__(self, keys: Keys | bytes) -> None:
        """Take the keys, or one secret of 32 bytes from which both are derived."""
        self._keys = keys if isinstance(keys, Keys) else Keys(_derive(keys, "pseudonym"), (_derive(keys, "seal"),))

    @classmethod
    def open(cls, data_directory: Path) -> Self:
        """Use the keys of a data directory; at the first start they are made (mode 0600).

        Raises
        ------
        InvalidConfiguration
            When the key file is malformed or others may read it.
        """
        path = data_directory / "keys" / "pseudonyms.json"
        if not path.exists():
            # Another process may make it between the look and the write; then its key counts.
            with suppress(FileExistsError):
                write_private(path, Keys.generate().to_json().encode())
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise InvalidConfiguration(
                f"the key file {path} has mode {mode:04o}; 0600 is needed", next_action=f"chmod 600 {path}"
            )
        return cls(Keys.from_json(path.read_text(encoding="ascii")))

    def digest(self, kind: str, value: str) -> bytes:
        """Return the keyed digest (32 bytes) of a value; equal values of different kinds differ."""
        return hmac.new(self._keys.pseudonym, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256").digest()

    def label(self, kind: str, value: str) -> str:
        """Return a pseudonym of 12 characters, A to Z and 2 to 7."""
        return base64.b32encode(self.digest(kind, value)).decode()[:PSEUDONYM_CHARACTERS]

    def patient(self, patient: str) -> str:
        """Return the pseudonym of a patient: `P-` and 12 characters, valid as LO, SH and PN."""
        return f"P-{self.label('patient', patient)}"

    def uid(self, uid: str) -> str:
        """Return the UID that stands for an original one, under the arc 2.25 (PS3.5 B.2)."""
        raw = bytearray(self.digest("uid", uid)[:16])
        raw[6] = raw[6] & 0x0F | 0x80  # RFC 9562 5.8: version 8, made of custom data
        raw[8] = raw[8] & 0x3F | 0x80  # RFC 9562 4.1: the variant
        return f"2.25.{int.from_bytes(raw, 'big')}"

    def date_shift(self, patient: str) -> timedelta:
        """Return by how much this patient's dates move: the same for every study, so that intervals stay true."""
        raw = self.digest("shift", patient)
        first, last = SHIFT_DAYS
        days = first + int.from_bytes(raw[:8], "big") % (last - first + 1)
        return timedelta(days=-days, seconds=int.from_bytes(raw[8:16], "big") % 86_400)

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt and authenticate; `context` must be given again to open it."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._keys.seals[0]).encrypt(nonce, plain, context.encode())

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """Open what `seal` closed, under the newest or an older key.

        Raises
        ------
        Permanent
            When no key of this installation opens it, or it was changed.
        """
        for key in self._keys.seals:
            try:
                return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
            except InvalidTag:
                continue
        raise Permanent(
            "a sealed record does not open with the keys of this installation",
            code="seal-broken",
            next_action="check that the key file belongs to this data directory",
        )


class SealedMap:
    """Keep the way back from pseudonyms to originals: an SQLite file of sealed records."""

    def __init__(self, path: Path, pseudonyms: Pseudonyms) -> None:
        """Open or make the file (mode 0600)."""
        self._path = path
        self._pseudonyms = pseudonyms
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with closing(self._connect()) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS sealed (pseudonym TEXT PRIMARY KEY, record BLOB, made TEXT)")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)

    def remember(self, originals: dict[str, str]) -> None:
        """Keep the originals, given by pseudonym; what is known already stays."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(name, self._pseudonyms.seal(value.encode(), name), now) for name, value in originals.items()]
        with closing(self._connect()) as db, db:
            db.executemany("INSERT OR IGNORE INTO sealed VALUES (?, ?, ?)", rows)

    def original(self, pseudonym: str) -> str | None:
        """Return what a pseudonym stands for, or None when it is not known."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT record FROM sealed WHERE pseudonym = ?", (pseudonym,)).fetchone()
        return None if row is None else self._pseudonyms.unseal(row[0], pseudonym).decode()

    def forget(self, pseudonym: str) -> bool:
        """Drop one way back for good; return whether there was one."""
        with closing(self._connect()) as db, db:
            db.execute("PRAGMA secure_delete = ON")
            return db.execute("DELETE FROM sealed WHERE pseudonym = ?", (pseudonym,)).rowcount > 0


def _derive(secret: bytes, purpose: str) -> bytes:
    if len(secret) != KEY_BYTES:
        raise InvalidConfiguration(f"the pseudonym key has {len(secret)} bytes; {KEY_BYTES} are needed")
    return hmac.new(secret, f"carpus/{purpose}".encode(), hashlib.sha256).digest()
