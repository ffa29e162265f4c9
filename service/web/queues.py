"""Show the queues, the destinations left alone and the refusals, and let a person pause, drain or resume a queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.queue.breakers import Breakers
from service.queue.queues import QUEUES, Queue, Queues, refusing
from service.tables import Breaker, QueueMode, Refusal
from service.web.guard import require_own_form
from service.web.pages import Pages

ACTIONS: Final = {"pause": QueueMode.PAUSED, "drain": QueueMode.DRAINING, "resume": QueueMode.RUNNING}
WORK: Final = {
    "intake": "what was received is prepared",
    "inference": "films are read",
    "delivery": "results are sent",
}
LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class Refused:
    """One cause of refusals, and whether it holds now."""

    row: Refusal
    now: bool


@dataclass(frozen=True, slots=True)
class QueuePage:
    """The handlers of the page."""

    pages: Pages

    def show(self, request: Request) -> Response:
        """Show everything that is held, left alone or refused."""
        return self.pages.page(
            request,
            "queues.html",
            queues=self._queues(),
            breakers=self._breakers(),
            refusals=self._refusals(),
            work=WORK,
            longest_reason=LONGEST_REASON,
            destinations=self.pages.settings.destinations,
        )

    async def act(self, request: Request) -> Response:
        """Pause, drain or resume one queue, and go back to the page."""
        await require_own_form(request)
        name, action = request.path_params["queue"], request.path_params["action"]
        if name not in QUEUES or action not in ACTIONS:
            raise HTTPException(404, "There is no such queue or action.")
        form = await request.form(max_files=0, max_fields=4)
        user, reason = request.state.user.name, str(form.get("reason", "")).strip()[:LONGEST_REASON]
        control = Queues(self.pages.jobs.engine, clock=self.pages.jobs.now)
        await run_in_threadpool(control.set, name, ACTIONS[action], by=user, reason=reason)
        await run_in_threadpool(self.pages.audited.setting, request, f"queue {name}: {action}")
        self.pages.log.info("queue changed by a person", queue=name, action=action, user=user)
        return RedirectResponse("/queues", status_code=303)

    def _queues(self) -> list[Queue]:
        return Queues(self.pages.jobs.engine, clock=self.pages.jobs.now).all()

    def _breakers(self) -> Sequence[Breaker]:
        return Breakers(self.pages.jobs, self.pages.settings.breaker).all()

    def _refusals(self) -> list[Refused]:
        codes = {each["code"] for each in refusing(self.pages.jobs.processes(), self.pages.jobs.now())}
        return [Refused(row, row.code in codes) for row in self.pages.jobs.refusals()]
