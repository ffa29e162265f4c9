"""Know the administrator: an argon2 hash from the settings, or a password made at the first start."""

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Final, Self

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.errors import InvalidConfiguration
from service.pseudonyms import write_private
from service.settings import Settings

# argon2 takes 64 MiB a check: two at a time are enough for people, and guessers cannot exhaust the memory.
_CHECKS: Final = BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The administrator's name, the hash of the password and the secret that signs cookies."""

    administrator: str
    password_hash: str = field(repr=False)
    secret_key: str = field(repr=False)
    first_password: str | None = field(default=None, repr=False)  # only from the call that made it: print it once

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Take them from the settings; what is missing there is made once and kept in the data directory (mode 0600).

        Raises
        ------
        InvalidConfiguration
            When the configured hash is not an argon2 hash, or the kept file is damaged.
        """
        password_hash = settings.web.password_hash.get_secret_value()
        secret_key = settings.web.secret_key.get_secret_value()
        first = None
        if not password_hash or not secret_key:
            path = settings.data_directory / "web" / "credentials.json"
            if not path.exists():
                password = secrets.token_urlsafe(12)
                made = {"password_hash": PasswordHasher().hash(password), "secret_key": secrets.token_urlsafe(48)}
                with suppress(FileExistsError):  # another process was first; its file counts
                    write_private(path, json.dumps(made).encode())
                    if not password_hash:
                        note = path.with_name("first-password.txt")
                        note.unlink(missing_ok=True)
                        write_private(note, f"{password}\n".encode())
                        first = password
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                password_hash = password_hash or str(kept["password_hash"])
                secret_key = secret_key or str(kept["secret_key"])
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidConfiguration(
                    f"{path} is damaged", next_action="remove it; a new password is made at the next start"
                ) from error
        if not password_hash.startswith("$argon2"):
            raise InvalidConfiguration(
                "web.password_hash is not an argon2 hash",
                next_action="python -c 'import argon2; print(argon2.PasswordHasher().hash(input()))'",
            )
        return cls(settings.web.administrator, password_hash, secret_key, first)

    def admits(self, user: str, password: str) -> bool:
        """Whether name and password are right; takes as long for a wrong name as for a wrong password."""
        with _CHECKS:
            try:
                PasswordHasher().verify(self.password_hash, password)
            except (VerificationError, InvalidHashError):
                return False
        return secrets.compare_digest(user.encode(), self.administrator.encode())
