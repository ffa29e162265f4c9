"""Ask destinations that were left alone whether they answer again, by C-ECHO, and let go on what waited for them."""

from collections.abc import Callable
from typing import Any

from service.errors import CarpusError, Permanent, Retryable
from service.queue.breakers import Breakers
from service.queue.jobs import Jobs, State
from service.sending import requestor, scu
from service.settings import Settings


class Prober:
    """One round after another, beside the steps of a delivery worker."""

    def __init__(self, jobs: Jobs, settings: Settings, *, echo: Callable[..., Any] = scu.echo) -> None:
        self._jobs = jobs
        self._settings = settings
        self._breakers = Breakers(jobs, settings.breaker)
        self._echo = echo
        self._destinations = {destination.name: destination for destination in settings.destinations}

    def round(self) -> list[str]:
        """Probe what is due; return the destinations that answer again."""
        answering = self._breakers.probe_due(self._probe)
        if answering:
            self._jobs.wake(State.INFERRED)
        return answering

    def _probe(self, name: str) -> CarpusError | None:
        destination = self._destinations.get(name)
        if destination is None:
            return None  # no longer in the configuration: nothing will be sent there, and nothing is held back for it
        address = requestor.address_of(destination, self._settings)
        try:
            self._echo(address, calling_ae_title=self._settings.ae_title, timeout_seconds=destination.timeout_seconds)
        except Retryable as error:
            return error
        except Permanent:
            pass  # it answers, if only to refuse C-ECHO or us: the next delivery will say what has to change
        return None
