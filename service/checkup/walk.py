"""Examine an installation from its configuration: the machine, the way in, the way out to every PACS."""

from collections.abc import Iterator
from functools import cache

from pydicom import Dataset

from models.image import Image
from models.reading import Reading
from service import installation
from service.checkup import entrance, exits, machine, samples
from service.checkup.finding import Finding, Verdict, skipped
from service.errors import CarpusError
from service.profiles import Profiles
from service.queue.jobs import Jobs
from service.result_profile import ResultProfile
from service.settings import Settings


def without_database(
    settings: Settings, jobs: Jobs, error: CarpusError, *, clock_url: str | None = None
) -> Iterator[Finding]:
    """Yield what can be found without the database: what is wrong with it first, then the machine and whether each PACS answers."""
    yield Finding(machine.PLACE, "database", Verdict.FAILED, str(error), error.next_action)
    yield machine.disk(settings)
    yield machine.bundle(settings)
    yield machine.processor(settings)
    yield from machine.certificates(settings, jobs.now())
    if clock_url is not None:
        yield machine.http_clock(clock_url)
    yield entrance.bound(settings)
    for destination in settings.destinations:
        way = exits.Exit(destination, ResultProfile(), settings, jobs, None)
        yield way.listed()
        yield way.answers()
        yield skipped(way.place, "everything else", "it needs the database")


def walk(settings: Settings, jobs: Jobs, *, read_only: bool = False, clock_url: str | None = None) -> Iterator[Finding]:
    """Yield every finding, in the order a film takes.

    Parameters
    ----------
    read_only
        Store nothing in any PACS.
    clock_url
        A page of the PACS whose Date its clock is judged by.
    """
    yield from entrance.look(settings, jobs)
    yield from machine.look(settings, jobs, clock_url)

    @cache
    def sample() -> tuple[Image, Dataset, Reading]:
        image, header = samples.film()
        return image, header, samples.read(settings, image)

    def make(profile: ResultProfile) -> list[Dataset]:
        image, header, reading = sample()
        return samples.objects(profile, installation.device_uid(settings, jobs.engine), reading, image, header)

    if not settings.destinations:
        action = "name the PACS under `destinations` (name, ae_title, host, port)"
        yield Finding("exit", "destinations", Verdict.FAILED, "results have nowhere to go", action)
    profiles, listening = Profiles(jobs.engine, settings), entrance.is_open(settings)
    for destination in settings.destinations:
        try:
            profile = profiles.of(destination)[1]
        except CarpusError as error:
            yield Finding(f"to {destination.name}", "profile", Verdict.FAILED, str(error), error.next_action)
            continue
        way = exits.Exit(destination, profile, settings, jobs, None if read_only else make, listening=listening)
        yield from way.look()
