"""Know which result profile each destination has now, and change it while the service runs.

The settings name a profile for each destination; a choice made by a person is kept in the database, whole, and stands before
it. Every delivery looks here, so a choice holds from the next film on, in every process.
"""

import datetime as dt
import os
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError
from sqlalchemy import Engine, bindparam, delete, select
from sqlalchemy.orm import Session

from service.errors import InvalidConfiguration, Permanent
from service.ledger import utc_now
from service.result_profile import ResultProfile
from service.settings import Destination, Settings
from service.tables import ProfileChoice

# Asked for every delivery: put together once.
_CHOSEN = select(ProfileChoice).where(ProfileChoice.destination == bindparam("destination"))


class Profiles:
    """The profile of each destination."""

    def __init__(self, engine: Engine, settings: Settings, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._settings = settings
        self._now = clock

    def of(self, destination: Destination) -> tuple[str, ResultProfile]:
        """Return the name and the profile a destination has now."""
        with Session(self._engine) as session:
            choice = session.scalars(_CHOSEN, {"destination": destination.name}).one_or_none()
            if choice is not None:
                try:
                    return choice.name, ResultProfile.model_validate(choice.profile)
                except ValidationError as error:
                    raise Permanent(
                        f"the profile {choice.name!r} chosen for {destination.name} is not one this version knows: "
                        f"{error.error_count()} faults",
                        code="invalid-profile",
                        next_action=f"`carpus profiles use {destination.name} PROFILE` chooses another",
                    ) from error
        return self.configured(destination)

    def configured(self, destination: Destination) -> tuple[str, ResultProfile]:
        """Return the name and the profile the settings give a destination."""
        if isinstance(destination.profile, ResultProfile):
            return f"{destination.name}, from the settings", destination.profile
        return destination.profile, named(self._settings, destination.profile)

    def destination(self, name: str) -> Destination:
        """Return a destination by its name.

        Raises
        ------
        InvalidConfiguration
            When there is none.
        """
        for destination in self._settings.destinations:
            if destination.name == name:
                return destination
        names = ", ".join(destination.name for destination in self._settings.destinations) or "none"
        raise InvalidConfiguration(f"there is no destination {name!r}; the settings have {names}")

    def use(self, destination: str, name: str, *, by: str = "") -> ResultProfile:
        """Give a destination a profile from the next film on; return it."""
        self.destination(destination)
        profile = named(self._settings, name)
        choice = ProfileChoice(
            destination=destination,
            name=name,
            profile=profile.model_dump(mode="json"),
            chosen_at=self._now(),
            chosen_by=by or _user(),
        )
        with Session(self._writer) as session, session.begin():
            session.merge(choice)
        return profile

    def forget(self, destination: str) -> None:
        """Let the settings decide again."""
        self.destination(destination)
        with Session(self._writer) as session, session.begin():
            session.execute(delete(ProfileChoice).where(ProfileChoice.destination == destination))


def named(settings: Settings, name: str) -> ResultProfile:
    """Return a profile by its name: a built-in one, or one of the site.

    Raises
    ------
    InvalidConfiguration
        When there is none.
    """
    known = settings.known_profiles
    if name not in known:
        raise InvalidConfiguration(f"there is no profile {name!r}; known are {', '.join(known)}")
    return known[name]


def _user() -> str:
    with suppress(OSError):  # no terminal
        return os.getlogin()
    return f"user {os.getuid()}"
