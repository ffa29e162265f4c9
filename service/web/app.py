"""Wire the admin page: one function that returns an application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from service.auditing.trail import Trail
from service.log import get_logger
from service.queue.jobs import Jobs, UnknownJob
from service.settings import Settings
from service.storage import Store
from service.trust.accounts import Accounts, Lockout
from service.web.audited import Audited
from service.web.correction import CorrectionPage
from service.web.credentials import Credentials, first_administrator
from service.web.display import FILTERS, STATES
from service.web.faults import Faults, Unforeseen
from service.web.guard import BodyLimit, Gate, SecurityHeaders
from service.web.login import Login
from service.web.masking import Masking
from service.web.oidc import Provider
from service.web.pages import Pages
from service.web.preview import PreviewPage
from service.web.queues import QueuePage
from service.web.sessions import Sessions

HEARTBEAT_SECONDS = 10


def create_app(
    settings: Settings,
    jobs: Jobs,
    credentials: Credentials,
    *,
    sessions: Sessions | None = None,
) -> Starlette:
    """Return the application; `state.first_password` is a password it has made, to be printed once, or None.

    Parameters
    ----------
    jobs
        On a migrated database.
    sessions
        Given by tests that need a clock of their own.
    """
    folder = Path(str(files("service") / "web"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["STATES"] = STATES
    # Only what this process may see in every deployment: the identified store is not mounted beside the web.
    stores = (Store(settings.data_directory / "deidentified"), Store(settings.data_directory / "results"))
    log = get_logger()
    accounts = Accounts(jobs.engine, jobs.now)
    sessions = sessions or Sessions(credentials.secret_key)
    audited = Audited(Trail(jobs.engine, clock=jobs.now), settings.audit_source)
    pages = Pages(
        settings,
        jobs,
        stores[0],
        stores,
        Jinja2Templates(env=environment),
        Masking(credentials.secret_key),
        audited,
        log,
    )
    faults = Faults(pages.page, log)
    login = Login(
        settings.web,
        accounts,
        sessions,
        Lockout(jobs.engine, credentials.secret_key, jobs.now),
        Provider.of(settings.web),
        pages.page,
        audited,
        log,
    )
    queue_page = QueuePage(pages)
    correction_page = CorrectionPage(pages)
    preview_page = PreviewPage(pages)
    routes = [
        Route("/", pages.films),
        Route("/films/live", pages.films),
        Route("/films/{number:int}", pages.film),
        Route("/films/{number:int}/live", pages.film),
        Route("/films/{number:int}/overlay.png", pages.overlay),
        Route("/films/{number:int}/preview", preview_page.show),
        Route("/films/{number:int}/preview/{file:str}", preview_page.file),
        Route("/films/{number:int}/amend", correction_page.show),
        Route("/films/{number:int}/amend", correction_page.act, methods=["POST"]),
        Route("/films/{number:int}/{action:str}", pages.act, methods=["POST"]),
        Route("/quarantine", pages.quarantine),
        Route("/queues", queue_page.show),
        Route("/queues/{queue:str}/{action:str}", queue_page.act, methods=["POST"]),
        Route("/system", pages.system),
        Route("/login", login.form),
        Route("/login", login.enter, methods=["POST"]),
        Route("/login/oidc", login.go_to_provider, methods=["POST"]),
        Route("/login/oidc/callback", login.back_from_provider),
        Route("/logout", login.leave, methods=["POST"]),
        Route("/metrics", pages.metrics),
        Route("/health/live", pages.live),
        Route("/health/ready", pages.ready),
        Mount("/static", StaticFiles(directory=folder / "static")),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async def beat() -> None:
            with suppress(SQLAlchemyError):  # the pages say that the database is away; the next beat may find it
                await run_in_threadpool(jobs.beat, "web")

        async def keep_beating() -> None:
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await beat()

        await beat()
        beating = asyncio.create_task(keep_beating())
        yield
        beating.cancel()
        with suppress(asyncio.CancelledError):  # a beat under way would undo what follows
            await beating
        await run_in_threadpool(jobs.sign_off, "web")

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(SecurityHeaders, secure=settings.web.over_tls),
            Middleware(Unforeseen, faults=faults),
            Middleware(BodyLimit, faults=faults),
            Middleware(
                Gate,
                routes=routes,
                sessions=sessions,
                accounts=accounts,
                monitors=settings.web.monitor_addresses,
                names={"localhost", settings.web.host, urlsplit(settings.web.public_url).hostname or "localhost"},
                faults=faults,
                secure=settings.web.over_tls,
            ),
        ],
        exception_handlers=dict.fromkeys((HTTPException, UnknownJob, SQLAlchemyError), faults.refused),
    )
    app.state.first_password = first_administrator(settings, credentials, accounts)
    return app
