"""Replace identities by keyed pseudonyms, and seal the way back.

Pseudonyms are HMAC-SHA256 of the original under a key of the installation: the same patient gets the same pseudonym in every
study, and nobody without the key can test a guess. What is sealed (AES-256-GCM) is noise without the key; `vault` keeps it.
"""

import base64
import hashlib
import hmac
import os
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import InvalidConfiguration, Permanent
from service.settings import Settings
from service.trust.keys import KEY_BYTES, Keys, KeySource, in_data_directory, source_of

NONCE_BYTES = 12  # NIST SP 800-38D 5.2.1.1: 96 bits, drawn afresh for every record
PSEUDONYM_CHARACTERS = 12  # 60 bits of base32; with a prefix of two it fits SH (16 characters, PS3.5 6.2)
SHIFT_DAYS = (366, 3653)  # dates move one to ten years into the past


class Pseudonyms:
    """Derive every pseudonym of one installation.

    Parameters
    ----------
    keys
        The keys, or one secret of 32 bytes from which both are derived.
    source
        Where to look for newer keys when a record does not open: a rotation needs no restart.
    """

    def __init__(self, keys: Keys | bytes, source: KeySource | None = None) -> None:
        self._keys = keys if isinstance(keys, Keys) else Keys(_derive(keys, "pseudonym"), (_derive(keys, "seal"),))
        self._source = source

    @classmethod
    def open(cls, data_directory: Path) -> Self:
        """Use the key file of a data directory; at the first start it is made (mode 0600)."""
        return cls._from(in_data_directory(data_directory))

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Use the keys that the settings name.

        Raises
        ------
        InvalidConfiguration, Retryable
            When there are none, or they are malformed.
        """
        return cls._from(source_of(settings))

    @classmethod
    def _from(cls, source: KeySource) -> Self:
        return cls(source.read(), source)

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
        """Encrypt and authenticate under the newest key; `context` must be given again to open it."""
        return sealed(self._keys.seals[0], plain, context)

    def unseal(self, record: bytes, context: str) -> bytes:
        """Open what `seal` closed, under the newest or an older key; keys rotated meanwhile are read again.

        Raises
        ------
        Permanent
            When no key of this installation opens it, or it was changed.
        """
        found = self._opened(record, context)
        if found is None and self._source is not None:
            keys = self._source.read()
            if keys.pseudonym == self._keys.pseudonym and keys.seals != self._keys.seals:
                self._keys = keys
                found = self._opened(record, context)
        if found is None:
            raise broken()
        return found[1]

    def sealed_by(self, record: bytes, context: str) -> int | None:
        """Return which sealing key opens a record, 0 for the newest, or None."""
        found = self._opened(record, context)
        return None if found is None else found[0]

    def _opened(self, record: bytes, context: str) -> tuple[int, bytes] | None:
        for index, key in enumerate(self._keys.seals):
            try:
                return index, unsealed(key, record, context)
            except InvalidTag:
                continue
        return None


def sealed(key: bytes, plain: bytes, context: str) -> bytes:
    """Encrypt and authenticate with AES-256-GCM: nonce, then cipher text and tag."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context.encode())


def unsealed(key: bytes, record: bytes, context: str) -> bytes:
    """Open what `sealed` closed, or raise InvalidTag."""
    if len(record) <= NONCE_BYTES:
        raise InvalidTag
    return AESGCM(key).decrypt(record[:NONCE_BYTES], record[NONCE_BYTES:], context.encode())


def broken() -> Permanent:
    """Return the error of a record that no key opens."""
    return Permanent(
        "a sealed record does not open with the keys of this installation",
        code="seal-broken",
        next_action="check that the key file belongs to this data directory",
    )


def _derive(secret: bytes, purpose: str) -> bytes:
    if len(secret) != KEY_BYTES:
        raise InvalidConfiguration(f"the pseudonym key has {len(secret)} bytes; {KEY_BYTES} are needed")
    return hmac.new(secret, f"carpus/{purpose}".encode(), hashlib.sha256).digest()
