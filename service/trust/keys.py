"""Hold the secret keys of an installation: where they come from, how they are renewed.

One key makes the pseudonyms and never changes; sealing keys are rotated: the newest seals, every one that is listed opens. They come
from a file of the data directory (made at the first start), from another file, from the environment, or from a command that prints
them, such as the client of a key management service. The form is the same everywhere: one JSON object.
"""

import base64
import hashlib
import json
import os
import shlex
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from service.errors import InvalidConfiguration, Permanent, Retryable
from service.settings import KeySettings, Settings

KEY_BYTES = 32
COMMAND_SECONDS = 20.0


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

    def newest_only(self) -> Self:
        """Return the keys without the old sealing keys: right after every record was sealed anew, else wrong."""
        return type(self)(self.pseudonym, self.seals[:1])

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


def name_of(key: bytes) -> str:
    """Return the public name of a key: 8 hexadecimal characters of its hash."""
    return hashlib.sha256(b"carpus/key-name\0" + key).hexdigest()[:8]


class KeySource(Protocol):
    """Where the keys come from."""

    @property
    def place(self) -> str:
        """Say it to a person; holds no secret."""

    def read(self) -> Keys:
        """Return the keys as they are now."""

    def replace(self, keys: Keys) -> None:
        """Put new keys in their place.

        Raises
        ------
        Permanent
            When this source cannot be written by us.
        """


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file that only its owner reads; in the data directory it is made at the first start."""

    path: Path
    made_when_missing: bool = True

    @property
    def place(self) -> str:
        """Name the file."""
        return f"file {self.path}"

    def read(self) -> Keys:
        """Return the keys of the file; a missing one is made, where that is allowed.

        Raises
        ------
        InvalidConfiguration
            When the file is missing, malformed or others may read it.
        """
        if not self.path.exists():
            if not self.made_when_missing:
                raise InvalidConfiguration(
                    f"the key file {self.path} is missing", next_action="restore it from a backup"
                )
            # Another process may make it between the look and the write; then its key counts.
            with suppress(FileExistsError):
                write_private(self.path, Keys.generate().to_json().encode())
        mode = self.path.stat().st_mode & 0o777
        if mode & 0o077:
            raise InvalidConfiguration(
                f"the key file {self.path} has mode {mode:04o}; 0600 is needed", next_action=f"chmod 600 {self.path}"
            )
        return Keys.from_json(self.path.read_text(encoding="ascii"))

    def replace(self, keys: Keys) -> None:
        """Write the new keys whole or not at all; whoever reads meanwhile sees the old or the new file."""
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        write_private(fresh, keys.to_json().encode())
        fresh.replace(self.path)


@dataclass(frozen=True, slots=True)
class KeyCommand:
    """A command whose standard output is the keys."""

    command: str

    @property
    def place(self) -> str:
        """Name the program; its arguments may be secret."""
        return f"command {Path(shlex.split(self.command)[0]).name}"

    def read(self) -> Keys:
        """Run the command.

        Raises
        ------
        Retryable
            When it does not answer in time or fails; what it printed is not repeated.
        """
        try:
            done = subprocess.run(  # noqa: S603 - the administrator's own command, split without a shell
                shlex.split(self.command), capture_output=True, timeout=COMMAND_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Retryable(
                f"the {self.place} gave no keys: {type(error).__name__}",
                code="keys-unavailable",
                next_action="run keys.command by hand as the user of the service",
            ) from error
        if done.returncode:
            raise Retryable(
                f"the {self.place} gave no keys: exit status {done.returncode}",
                code="keys-unavailable",
                next_action="run keys.command by hand as the user of the service",
            )
        return Keys.from_json(done.stdout.decode("ascii", "replace"))

    def replace(self, keys: Keys) -> None:
        """Refuse: only the service behind the command can keep them."""
        raise _elsewhere(self.place)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys given by the environment or a secret file."""

    text: str = field(repr=False)

    @property
    def place(self) -> str:
        """Say that it is the configuration."""
        return "the setting keys.value"

    def read(self) -> Keys:
        """Return the keys of the setting."""
        return Keys.from_json(self.text)

    def replace(self, keys: Keys) -> None:
        """Refuse: a process cannot change the environment of the others."""
        raise _elsewhere(self.place)


def source_of(settings: Settings) -> KeySource:
    """Return where this installation's keys come from."""
    return _source(settings.keys, settings.data_directory)


def _source(keys: KeySettings, data_directory: Path) -> KeySource:
    if keys.command:
        return KeyCommand(keys.command)
    if value := keys.value.get_secret_value():
        return KeyValue(value)
    if keys.file is not None:
        return KeyFile(keys.file, made_when_missing=False)
    return in_data_directory(data_directory)


def in_data_directory(data_directory: Path) -> KeyFile:
    """Return the key file of a data directory."""
    return KeyFile(data_directory / "keys" / "pseudonyms.json")


def _elsewhere(place: str) -> Permanent:
    return Permanent(
        f"the keys come from {place}, which cannot be written from here",
        code="keys-kept-elsewhere",
        next_action="put what `carpus keys rotate --print` prints in their place, then restart nothing: processes read them again",
    )


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all; an existing file is left as it is.

    Raises
    ------
    FileExistsError
        When another process was first.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
