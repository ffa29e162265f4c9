"""Let people in and out: name and password, or an identity provider; who guesses is locked out."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.auditing.messages import Event
from service.settings import WebSettings
from service.trust.accounts import Accounts, Lockout, UnknownUser, User
from service.web.audited import Audited
from service.web.guard import COOKIE, LOGIN_COOKIE, OIDC_COOKIE, cookie_name, named, require_own_form, safe_path
from service.web.oidc import Provider, Refused
from service.web.sessions import LOGIN_FORM_SECONDS, LONGEST_SECONDS, Sessions


@dataclass
class Login:
    """The handlers of log-in and log-out, with what they need."""

    web: WebSettings
    accounts: Accounts
    sessions: Sessions
    lockout: Lockout
    provider: Provider | None
    page: Callable[..., Response]
    audited: Audited
    log: structlog.stdlib.BoundLogger

    def form(self, request: Request, *, fault: str = "", status_code: int = 200, user: str = "") -> Response:
        """Show the log-in page."""
        token = self.sessions.login_token()
        context = {
            "token": token,
            "fault": fault,
            "user": user,
            "target": safe_path(request.query_params.get("next", "/")),
            "path": "/login",
            "provider": self.provider,
        }
        response = self.page(request, "login.html", status_code, **context)
        self._set(response, LOGIN_COOKIE, token, LOGIN_FORM_SECONDS)
        return response

    async def enter(self, request: Request) -> Response:
        """Check name and password; lock out who guesses."""
        form = await request.form(max_files=0, max_fields=8)
        name, password, token = (str(form.get(field, "")) for field in ("user", "password", "csrf"))
        if not self.sessions.is_login_token(token, self._cookie(request, LOGIN_COOKIE)):
            return self.form(request, fault="The form was too old. Try again.", status_code=403)
        tried = {"address": request.client.host if request.client else "", "name": name}
        locked = await run_in_threadpool(self.lockout.attempt, **tried)
        if locked:
            fault = f"Too many wrong passwords. Try again in {max(1, locked // 60)} min."
            await run_in_threadpool(self.audited.person, Event.LOGIN, request, "", refused=True, detail="locked out")
            response = self.form(request, fault=fault, status_code=429)
            response.headers["Retry-After"] = str(max(1, int(locked)))
            return response
        user = await run_in_threadpool(self.accounts.admitted, name, password)
        if user is None:
            self.log.warning("log-in refused", address=tried["address"])
            await run_in_threadpool(self.audited.person, Event.LOGIN, request, "", refused=True)
            return self.form(request, fault="Name or password is wrong.", status_code=401, user=name[:64])
        await run_in_threadpool(self.lockout.succeeded, **tried)
        response = RedirectResponse(safe_path(str(form.get("next", "/"))), status_code=303)
        return await self._begin(response, user, request)

    async def leave(self, request: Request) -> Response:
        """End the session; its cookie opens nothing from now on."""
        await require_own_form(request)
        self.sessions.end(request.state.session)
        self.log.info("logged out", user=request.state.session.user)
        await run_in_threadpool(self.audited.person, Event.LOGOUT, request, request.state.session.user)
        response = RedirectResponse("/login", status_code=303)
        self._forget(response, COOKIE)
        return response

    async def go_to_provider(self, request: Request) -> Response:
        """Send the visitor to the identity provider."""
        form = await request.form(max_files=0, max_fields=8)
        token = str(form.get("csrf", ""))
        if self.provider is None or not self.sessions.is_login_token(token, self._cookie(request, LOGIN_COOKIE)):
            return self.form(request, fault="The form was too old. Try again.", status_code=403)
        try:
            begun = await run_in_threadpool(self.provider.begin, safe_path(str(form.get("next", "/"))))
        except Refused as refused:
            return self._refused(request, refused)
        # No redirect: browsers hold `form-action` against where a form's redirect leads, and providers send visitors on.
        response = self.page(
            request, "onwards.html", target=begun.url, told="On to the log-in of your hospital.", path="/login"
        )
        # Lax: the way back comes from the provider's site.
        self._set(response, OIDC_COOKIE, begun.cookie, LOGIN_FORM_SECONDS, samesite="lax")
        return response

    async def back_from_provider(self, request: Request) -> Response:
        """Take what the identity provider says of the visitor."""
        if self.provider is None:
            return self.form(request, fault="No identity provider is set up.", status_code=404)
        query = dict(request.query_params)
        try:
            claims = await run_in_threadpool(self.provider.finish, query, self._cookie(request, OIDC_COOKIE))
            user = await run_in_threadpool(
                self.accounts.from_provider,
                self.provider.issuer,
                claims.subject,
                claims.name,
                claims.role,
                claims.observer_name,
            )
        except (Refused, UnknownUser) as refused:
            await run_in_threadpool(self.audited.person, Event.LOGIN, request, "", refused=True, detail="provider")
            return self._refused(request, refused)
        # A redirect would still belong to the provider's site, and the strict cookie would not go with it.
        response = self.page(request, "onwards.html", target=claims.target, told="You are logged in.", path="/login")
        self._forget(response, OIDC_COOKIE)
        return await self._begin(response, user, request)

    def _refused(self, request: Request, refused: Exception) -> Response:
        self.log.warning("log-in refused", provider=self.web.oidc.issuer if self.web.oidc else "", reason=str(refused))
        return self.form(request, fault=f"The identity provider's answer was refused: {refused}.", status_code=403)

    async def _begin(self, response: Response, user: User, request: Request) -> Response:
        address = request.client.host if request.client else ""
        await run_in_threadpool(self.audited.person, Event.LOGIN, request, user.name, detail=f"role {user.role.value}")
        if request.state.session is not None:  # of whoever was logged in here before; the browser forgets its cookie
            self.sessions.end(request.state.session)
        _, cookie = self.sessions.begin(user.name, user.changed_at, named(request))
        self.log.info("logged in", user=user.name, role=user.role.value, source=user.source, address=address)
        self._set(response, COOKIE, cookie, LONGEST_SECONDS)
        self._forget(response, LOGIN_COOKIE)
        return response

    def _cookie(self, request: Request, name: str) -> str:
        return request.cookies.get(cookie_name(name, secure=self.web.over_tls), "")

    def _set(self, response: Response, name: str, value: str, seconds: int, *, samesite: str = "strict") -> None:
        response.set_cookie(
            cookie_name(name, secure=self.web.over_tls),
            value,
            max_age=seconds,
            path="/",
            httponly=True,
            samesite="lax" if samesite == "lax" else "strict",
            secure=self.web.over_tls,
        )

    def _forget(self, response: Response, name: str) -> None:
        """Let the browser remove a cookie; one of a secure name it removes over TLS alone, like setting it."""
        response.delete_cookie(cookie_name(name, secure=self.web.over_tls), path="/", secure=self.web.over_tls)
