"""Answer what cannot be done: a page of ours for a browser, JSON for a program that asks for it, else one line of text.

Every refusal of the pages, wherever it comes from, passes here: the body limit and the gate before the application, HTTP errors and
unknown jobs within it, and what nobody foresaw. Texts are escaped by the templates; the message of an unforeseen error is neither
shown nor logged, for it may quote a value of a patient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.log import whereabouts
from service.queue.jobs import UnknownJob

# Status: what it is called, and what one can do about it.
WORDS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("Not possible", "Go back, load the page again and try once more."),
    401: ("Log in first", "The session has ended, or there was none. What was asked for has not been done."),
    403: ("Not allowed", "Ask an administrator if it should be possible for you."),
    404: ("Not found", "It may have been removed, or the address may be mistyped."),
    405: ("Not possible here", "This page does not take such a request."),
    413: ("Too large", "No form of these pages is as large as this."),
    429: ("Too many attempts", "Wait a few minutes, then try again."),
    500: ("Something went wrong", "It has been written to the log. Films are received and read all the same."),
    503: ("Not available now", "Films are received and read by other processes; try again in a minute."),
}
ELSE: Final = ("Not possible", "")
DATABASE_AWAY: Final = "The database does not answer."
UNFORESEEN: Final = "The page met an error that nobody foresaw."


@dataclass(frozen=True, slots=True)
class Faults:
    """Make the answers to what cannot be done.

    Parameters
    ----------
    page
        Renders a template: request, name, status, context.
    """

    page: Callable[..., Response]
    log: structlog.stdlib.BoundLogger

    def answer(self, request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        """Return the answer in the form the visitor takes; a browser says that it takes HTML, a script of a page does not."""
        title, advice = WORDS.get(status, ELSE)
        accepted = request.headers.get("accept", "")
        answer: Response
        if "text/html" in accepted:
            answer = self.page(request, "fault.html", status, status=status, title=title, text=text, advice=advice)
        elif "application/json" in accepted:
            answer = JSONResponse({"status": status, "title": title, "detail": text}, status)
        else:
            answer = PlainTextResponse(text, status)
        answer.headers.update(headers or {})
        return answer

    def refused(self, request: Request, error: Exception) -> Response:
        """Say what an HTTP error, an unknown job or a database that is away means to the visitor."""
        if isinstance(error, SQLAlchemyError):
            self.log.error("the database does not answer", error=type(error).__name__)
            return self.answer(request, 503, DATABASE_AWAY)
        if isinstance(error, HTTPException):
            return self.answer(request, error.status_code, error.detail, error.headers)
        return self.answer(request, 404 if isinstance(error, UnknownJob) else 400, str(error))


class Unforeseen:
    """Answer 500 to an error that nobody foresaw, and say in the log where it happened, not what it said."""

    def __init__(self, app: ASGIApp, *, faults: Faults) -> None:
        """Wrap the application."""
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001 - the one broad catch of this process: the server would log its message
            self.faults.log.error("request ended by an error", **whereabouts(error))
            if scope["type"] == "http" and not started:
                await self.faults.answer(Request(scope), 500, UNFORESEEN)(scope, receive, send)
