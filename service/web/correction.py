"""Let a radiologist correct a delivered reading: other stages, regions rejected, verified or not."""

from dataclasses import dataclass
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import standards
from models.reading import Reading
from models.regions import RUS
from service.amendments import Amendments
from service.auditing.messages import Event
from service.errors import Permanent
from service.queue.jobs import UnknownJob
from service.tables import Job
from service.web.guard import require_own_form
from service.web.overview import LARGEST_NUMBER, reading_of
from service.web.pages import Pages

MAXIMUM_FIELDS: Final = 64  # a stage for each bone, a tick for each region, and a few more
STAGE: Final = "stage-"


@dataclass(frozen=True, slots=True)
class CorrectionPage:
    """The handlers of the page."""

    pages: Pages

    def show(self, request: Request) -> Response:
        """Show the form for one film."""
        job, reading = self._found(request)
        return self._page(request, job, reading)

    async def act(self, request: Request) -> Response:
        """Take the correction and go to the job that delivers it; a bad one comes back with its cause."""
        form = await request.form(max_files=0, max_fields=MAXIMUM_FIELDS)
        await require_own_form(request)
        job, reading = await run_in_threadpool(self._found, request)
        stages = {}
        for key, value in form.multi_items():
            region = reading.region(key.removeprefix(STAGE)) if key.startswith(STAGE) else None
            present = region.stage.label if region is not None and region.stage is not None else ""
            if region is not None and isinstance(value, str) and value not in ("", present):
                stages[region.name] = value
        try:
            made = await run_in_threadpool(
                self._amendments.amend,
                job.id,
                stages=stages,
                rejected=[str(name) for name in form.getlist("reject")],
                observer=request.state.user.observer_name,
                organisation=str(form.get("organisation", "")),
                verify="verify" in form,
            )
        except Permanent as error:
            return self._page(request, job, reading, fault=error)
        film = await run_in_threadpool(self.pages.jobs.instance, job.instance_id)
        detail = f"job {job.id}: corrected by job {made}"
        await run_in_threadpool(self.pages.audited.film, Event.CHANGED, request, job, film, detail)
        self.pages.log.info("reading corrected by a person", job=job.id, made=made, user=request.state.user.name)
        return RedirectResponse(f"/films/{made}?done=amend", status_code=303)

    @property
    def _amendments(self) -> Amendments:
        settings = self.pages.settings
        return Amendments(self.pages.jobs, settings.bundle, settings.institution_name)

    def _found(self, request: Request) -> tuple[Job, Reading]:
        number: int = request.path_params["number"]
        if number > LARGEST_NUMBER:
            raise UnknownJob(f"there is no job {number}")
        job = self.pages.jobs.get(number)
        reading = reading_of(job)
        if reading is None or not reading.verdict.accepted:
            raise HTTPException(400, f"Job {number} is {job.state} and holds no reading that could be corrected.")
        return job, reading

    def _page(self, request: Request, job: Job, reading: Reading, *, fault: Permanent | None = None) -> Response:
        return self.pages.page(
            request,
            "correction.html",
            400 if fault else 200,
            job=job,
            regions=reading.regions,
            levels={bone: standards.fine_levels(bone) for bone in RUS},
            letters={
                bone: {label: standards.letter_of(bone, label) for label in standards.fine_levels(bone)} for bone in RUS
            },
            observer=request.state.user.observer_name,
            organisation=self.pages.settings.institution_name,
            fault=fault,
        )
