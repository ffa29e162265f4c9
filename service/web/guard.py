"""Stand before every page: security headers, small bodies only, nobody without permission, no form that is not ours."""

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.log import get_logger
from service.trust.accounts import Accounts, Role, User
from service.web.faults import DATABASE_AWAY, Faults
from service.web.permissions import may
from service.web.sessions import Session, Sessions

COOKIE: Final = "carpus_session"
LOGIN_COOKIE: Final = "carpus_login"
OIDC_COOKIE: Final = "carpus_oidc"
# RFC 6265bis 4.1.3.2: a browser takes such a cookie over TLS alone and from this very host, not from a neighbour in its domain.
HOST_PREFIX: Final = "__Host-"
REFRESH_HEADER: Final = "x-refresh"  # sent by the script that keeps a page live
MAXIMUM_BODY_BYTES: Final = 16_384
HEADERS: Final = {
    # Nothing from anywhere else, no inline script or style, no framing: a hostile string that slips through stays text.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityHeaders:
    """Put the security headers on every response; pages are not kept by any cache."""

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        """Wrap the application; `secure` says that it is reached over TLS."""
        self.app = app
        self.headers = HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)  # a page of another kind states a policy of its own, as strict
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuse a body that no form of ours needs, without reading it to its end."""

    def __init__(self, app: ASGIApp, *, faults: Faults) -> None:
        """Wrap the application."""
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAXIMUM_BODY_BYTES:
                refusal = self.faults.answer(Request(scope), 413, f"The body is over {MAXIMUM_BODY_BYTES} bytes.")
                await refusal(scope, receive, send)
                return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


class Gate(BaseHTTPMiddleware):
    """Find out who asks, and let them pass where the table of permissions says so."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Sequence[BaseRoute],
        sessions: Sessions,
        accounts: Accounts,
        monitors: Sequence[str],
        names: Collection[str],
        faults: Faults,
        secure: bool,
    ) -> None:
        """Wrap the application.

        Parameters
        ----------
        monitors
            Networks that may read what a service may, without a token.
        names
            By which we are called on this machine, besides by address.
        secure
            Whether the pages are reached over TLS.
        """
        super().__init__(app)
        self.log = get_logger()
        self.faults = faults
        self.routes = routes
        self.sessions = sessions
        self.accounts = accounts
        self.names = names
        self.cookie = cookie_name(COOKIE, secure=secure)
        self.monitors = [ipaddress.ip_network(network) for network in monitors]

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Let one request pass, send it to the log-in page, or refuse it."""
        live = REFRESH_HEADER in request.headers
        try:
            session, user = await run_in_threadpool(self._who, request, live)
        except SQLAlchemyError:
            if request.url.path == "/health/live":
                session, user = None, None
            else:
                request.state.session, request.state.user, request.state.role = None, None, None
                return self.faults.answer(request, 503, DATABASE_AWAY)
        request.state.session, request.state.user = session, user
        role = user.role if user else Role.SERVICE if self._is_monitor(request) else None
        request.state.role = role
        path, answers = self._route(request)
        if path is not None and may(role, path, request.method):
            return await call_next(request)
        if user is not None:
            if not answers:
                return await call_next(request)  # no such page, or none of this method: the application says it better
            return self.faults.answer(request, 403, f"The role {user.role} may not do this.")
        if live or request.method not in ("GET", "HEAD") or "authorization" in request.headers:
            return self.faults.answer(request, 401, "Log in first.")
        if path in ("/metrics", "/health/ready"):
            return self.faults.answer(request, 401, "A token is needed.", {"WWW-Authenticate": "Bearer"})
        return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)

    def _who(self, request: Request, live: bool) -> tuple[Session | None, User | None]:
        """Return session and user of the cookie, or the service of the token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return None, self.accounts.by_token(token.strip())
        session = self.sessions.find(request.cookies.get(self.cookie, ""), touch=not live)
        if session is None:
            return None, None
        if session.browser != named(request):
            address = request.client.host if request.client else ""
            self.log.warning("session ended: its cookie came from another browser", user=session.user, address=address)
            self.sessions.end(session)
            return None, None
        user = self.accounts.find(session.user)
        if user is None or user.disabled or user.changed_at != session.as_of:
            self.sessions.end(session)
            return None, None
        return session, user

    def _route(self, request: Request) -> tuple[str | None, bool]:
        """Return the path of the route, as it is declared, and whether it answers this method; no path where there is no route."""
        found: str | None = None
        for route in self.routes:
            match, _ = route.matches(request.scope)
            if match is Match.FULL:
                return str(getattr(route, "path", "")), True
            if match is Match.PARTIAL:  # of another method: the table does not list it either
                found = found or str(getattr(route, "path", ""))
        return found, False

    def _is_monitor(self, request: Request) -> bool:
        """Whether a request without user comes from where a monitor is, and through no proxy that we do not know."""
        if request.client is None or any(name in request.headers for name in ("x-forwarded-for", "forwarded")):
            return False
        try:
            address = ipaddress.ip_address(request.client.host)
        except ValueError:
            return False
        if address.is_loopback and not self._is_meant(request.headers.get("host", "")):
            return False
        return any(address in network for network in self.monitors)

    def _is_meant(self, host: str) -> bool:
        """Whether who asks on this machine means us; a page of another site in a browser here, whose name leads to us now, does not."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def cookie_name(name: str, *, secure: bool) -> str:
    """Return what a cookie of ours is called; over TLS by a name that browsers let nobody else set."""
    return f"{HOST_PREFIX}{name}" if secure else name


def named(request: Request) -> str:
    """Return how a browser names itself."""
    return request.headers.get("user-agent", "")


async def is_own_form(request: Request, session: Session) -> bool:
    """Whether a form carries the token of the session: another site cannot know it."""
    form = await request.form(max_files=0, max_fields=8)
    token = form.get("csrf")
    return isinstance(token, str) and secrets.compare_digest(token.encode(), session.csrf.encode())


async def require_own_form(request: Request) -> None:
    """Refuse a form that was not sent from a page of this session.

    Raises
    ------
    HTTPException
        403.
    """
    if request.state.session is None or not await is_own_form(request, request.state.session):
        raise HTTPException(403, "The form was not sent from this session. Load its page again.")


def safe_path(target: str) -> str:
    """Return a path of ours to go on to after the log-in; anything that might leave the site becomes the first page."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if inside and not target.startswith("/login") else "/"
