"""Stand before every page: security headers, small bodies only, nobody without a session, no form that is not ours."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.sessions import Session, Sessions

COOKIE: Final = "carpus_session"
LOGIN_COOKIE: Final = "carpus_login"
REFRESH_HEADER: Final = "x-refresh"  # sent by the script that keeps a page live
MAXIMUM_BODY_BYTES: Final = 16_384
OPEN_PATHS: Final = ("/login", "/static/", "/health/", "/metrics")
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
                    headers[name] = value
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuse a body that no form of ours needs, without reading it to its end."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self.app = app

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
                refusal = PlainTextResponse(f"body over {MAXIMUM_BODY_BYTES} bytes", status_code=413)
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


class SessionRequired(BaseHTTPMiddleware):
    """Let only who is logged in past the log-in page, the health checks and the metrics."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        """Wrap the application."""
        super().__init__(app)
        self.sessions = sessions

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Find the session of the cookie, or send the visitor to the log-in page."""
        live = REFRESH_HEADER in request.headers
        session = self.sessions.find(request.cookies.get(COOKIE, ""), touch=not live)
        request.state.session = session
        if session is None and not request.url.path.startswith(OPEN_PATHS):
            if live or request.method != "GET":
                return PlainTextResponse("log in first", status_code=401)
            return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)
        return await call_next(request)


async def is_own_form(request: Request, session: Session) -> bool:
    """Whether a form carries the token of the session: another site cannot know it."""
    form = await request.form(max_files=0, max_fields=8)
    token = form.get("csrf")
    return isinstance(token, str) and secrets.compare_digest(token.encode(), session.csrf.encode())


def safe_path(target: str) -> str:
    """Return a path of ours to go on to after the log-in; anything that might leave the site becomes the first page."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if inside and not target.startswith("/login") else "/"
