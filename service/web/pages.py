"""Answer the requests of the pages."""

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog
from PIL import Image as Picture
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.templating import Jinja2Templates

from models import overlay, pixels
from service import metrics
from service.auditing.messages import Event
from service.errors import Permanent
from service.queue.jobs import Jobs
from service.queue.queues import Queues, refusing
from service.settings import Settings
from service.storage import Store
from service.tables import State
from service.web import health, system
from service.web.audited import Audited
from service.web.guard import require_own_form
from service.web.masking import Masking
from service.web.overview import LARGEST_NUMBER, MOVING, Overview, job_number, reading_of
from service.web.permissions import MONITORS, may, searches_identity

OVERLAY_ROWS: Final = 1400
OVERLAYS_KEPT: Final = 16
LONGEST_SEARCH: Final = 128
DONE: Final = {
    "retry": "Retry asked for.",
    "cancel": "Cancelled.",
    "requeue": "The film will be read once more.",
    "amend": "Corrected; the new report is on its way.",
}


@dataclass
class Pages:
    """The handlers, with what they need."""

    settings: Settings
    jobs: Jobs
    deidentified: Store
    stores: tuple[Store, ...]
    templates: Jinja2Templates
    masking: Masking
    audited: Audited
    log: structlog.stdlib.BoundLogger
    _overlays: OrderedDict[tuple[int, str], bytes] = field(default_factory=OrderedDict)
    drawing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Open what is read through."""
        self.overview = Overview(self.jobs)
        self.registry = metrics.registry(self.jobs, self.stores, self.settings)

    def page(self, request: Request, name: str, status_code: int = 200, **context: Any) -> Response:
        """Render a template with what every page needs."""
        role = getattr(request.state, "role", None)
        common = {
            "session": getattr(request.state, "session", None),
            "user": getattr(request.state, "user", None),
            "may": partial(may, role),
            "version": system.carpus_version(),
            "path": request.url.path,
        }
        return self.templates.TemplateResponse(request, name, common | context, status_code=status_code)

    # -- films --------------------------------------------------------------------------------------------------------

    def films(self, request: Request) -> Response:
        """Show the list of films; `/films/live` is the part of it that refreshes itself."""
        query = request.query_params
        wanted = query.get("state", "")
        state = State(wanted) if wanted in State.__members__ else None
        # A zero byte ends the pattern for the database; marks of direction come along when somebody pastes a number.
        text = "".join(filter(str.isprintable, query.get("q", ""))).strip()[:LONGEST_SEARCH]
        before = job_number(query.get("before", ""))
        by_uid = searches_identity(request.state.role)
        rows, more = self.overview.rows(state, text, before, by_uid=by_uid)
        name = "films_live.html" if request.url.path == "/films/live" else "films.html"
        return self.page(
            request,
            name,
            rows=rows,
            more=more,
            state=state,
            text=text,
            by_uid=by_uid,
            before=before,
            counts=self.jobs.counts(),
            oldest=self.jobs.oldest(),
            moving=MOVING,
            held=Queues(self.jobs.engine, clock=self.jobs.now).held(),
            refused=refusing(self.jobs.processes(), self.jobs.now()),
            attention=self.overview.attention(),
            broken=[check for check in self._checks() if check.warning or not check.ok],
        )

    def film(self, request: Request) -> Response:
        """Show one film: what was read, what was sent, what happened."""
        detail = self.overview.detail(film_number(request))
        live = request.url.path.endswith("/live")
        done = DONE.get(request.query_params.get("done", ""), "")
        film = detail.instance
        if not live:  # the part that refreshes itself shows nothing that the page did not
            self.audited.film(Event.ACCESSED, request, self.jobs.get(film_number(request)), film)
        study = self.masking.study(request.state.role, film.StudyInstanceUID, film.accession_number)
        name = "film_live.html" if live else "film.html"
        by_uid = searches_identity(request.state.role)
        return self.page(request, name, film=detail, done=done, study=study, by_uid=by_uid)

    def overlay(self, request: Request) -> Response:
        """Draw the Reading onto the copy without identity, as PNG."""
        job = self.jobs.get(film_number(request))
        reading = reading_of(job)
        if reading is None or job.deidentified_name is None:
            raise HTTPException(404, "There is no picture of this film.")
        key = (job.id, job.updated_at.isoformat())
        with self.drawing:  # one at a time: a picture takes a few hundred milliseconds and some tens of megabytes
            if key not in self._overlays:
                try:
                    image = pixels.load(self.deidentified.path(job.deidentified_name))
                except (pixels.UnreadablePixels, Permanent) as error:
                    raise HTTPException(404, f"The picture cannot be drawn: {error}") from error
                buffer = io.BytesIO()
                Picture.fromarray(overlay.draw(image, reading, height=OVERLAY_ROWS)).save(buffer, "PNG")
                self._overlays[key] = buffer.getvalue()
                while len(self._overlays) > OVERLAYS_KEPT:
                    self._overlays.popitem(last=False)
            return Response(self._overlays[key], media_type="image/png")

    async def act(self, request: Request) -> Response:
        """Retry, cancel or read once more, and go back to the film."""
        await require_own_form(request)
        number, action = film_number(request), request.path_params["action"]
        user = request.state.user.name
        match action:
            case "retry":
                await run_in_threadpool(self.jobs.retry, number)
            case "cancel":
                await run_in_threadpool(self.jobs.cancel, number, f"cancelled by {user}")
            case "requeue":
                number = await run_in_threadpool(self.jobs.requeue, number)
            case _:
                raise HTTPException(404, "There is no such action.")
        job = await run_in_threadpool(self.jobs.get, number)
        film = await run_in_threadpool(self.jobs.instance, job.instance_id)
        await run_in_threadpool(self.audited.film, Event.CHANGED, request, job, film, f"job {number}: {action}")
        self.log.info("job changed by a person", job=number, action=action, user=user)
        return RedirectResponse(f"/films/{number}?done={action}", status_code=303)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def quarantine(self, request: Request) -> Response:
        """Show what cannot be used."""
        return self.page(
            request, "quarantine.html", files=self.overview.quarantine(), days=self.settings.retention.quarantine_days
        )

    def system(self, request: Request) -> Response:
        """Show processes, disks, models, versions, peers."""
        facts = system.facts(self.jobs, self.stores, self.settings)
        return self.page(request, "system.html", facts=facts, detail_of=system.detail_of)

    def metrics(self, request: Request) -> Response:
        """Answer Prometheus."""
        return Response(metrics.text(self.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    def live(self, request: Request) -> Response:
        """Say that this process answers."""
        return PlainTextResponse("ok")

    def ready(self, request: Request) -> Response:
        """Say whether films can be received, read and delivered, and if not, why."""
        found = self._checks()
        body: dict[str, Any] = {"ready": all(check.ok for check in found)}
        if request.state.role in MONITORS:
            body["checks"] = [
                {"name": c.name, "ok": c.ok, "text": c.text} | ({"warning": True} if c.warning else {}) for c in found
            ]
        return JSONResponse(body, status_code=200 if body["ready"] else 503)

    def _checks(self) -> list[health.Check]:
        found = health.checks(self.jobs, self.deidentified, self.settings.limits.minimum_free_disk_bytes)
        return [*found, *health.certificate_checks(self.settings, self.jobs.now())]


def film_number(request: Request) -> int:
    """Return the number of the film in the path."""
    number: int = request.path_params["number"]
    if number > LARGEST_NUMBER:
        raise HTTPException(404, "There is no such job.")
    return number
