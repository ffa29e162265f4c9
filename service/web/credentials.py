"""Open the pages for the first time: the secret that signs cookies, and an administrator who can log in."""

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from service.errors import InvalidConfiguration
from service.settings import Settings
from service.trust.accounts import Accounts, Role, UnknownUser
from service.trust.keys import write_private

HASH_COMMAND: Final = "carpus web --hash-password"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the settings say of the administrator, and the secret that signs cookies."""

    administrator: str
    password_hash: str = field(repr=False)  # empty: kept in the table of users alone
    secret_key: str = field(repr=False)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Take them from the settings; a secret that is missing there is made once and kept in the data directory (mode 0600).

        Raises
        ------
        InvalidConfiguration
            When the configured hash is not an argon2 hash, or the kept secret is damaged.
        """
        password_hash = settings.web.password_hash.get_secret_value()
        if password_hash and not password_hash.startswith("$argon2"):
            raise InvalidConfiguration("web.password_hash is not an argon2 hash", next_action=HASH_COMMAND)
        secret_key = settings.web.secret_key.get_secret_value()
        if not secret_key:
            path = settings.data_directory / "web" / "secret_key"
            if not path.exists():
                with suppress(FileExistsError):  # another process was first; its file counts
                    write_private(path, secrets.token_urlsafe(48).encode())
            secret_key = path.read_text(encoding="utf-8").strip()
            if len(secret_key) < 32:
                raise InvalidConfiguration(
                    f"{path} is damaged", next_action="remove it; a new one is made at the next start"
                )
        return cls(settings.web.administrator, password_hash, secret_key)


def first_administrator(settings: Settings, credentials: Credentials, accounts: Accounts) -> str | None:
    """Make sure that somebody can run the service; return the password made for that, to be printed once.

    A hash in the settings holds for the administrator named there at every start. Without one a password is made when there is
    no administrator, and kept beside the secret until somebody removes it.
    """
    if credentials.password_hash:
        accounts.pin(credentials.administrator, credentials.password_hash)
        return None
    if accounts.any_administrator():
        return None
    password = secrets.token_urlsafe(12)
    try:
        accounts.add(credentials.administrator, Role.ADMINISTRATOR, password=password)
    except UnknownUser:
        if accounts.any_administrator():  # another process was first
            return None
        raise
    note = settings.data_directory / "web" / "first-password.txt"
    note.unlink(missing_ok=True)
    write_private(note, f"{password}\n".encode())
    return password
