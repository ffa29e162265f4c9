"""Remember who is logged in.

The cookie holds a signed random number; what it stands for is kept in this process, so a cookie replayed after the log-out, or
after a restart, opens nothing.
"""

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Final

from itsdangerous import BadSignature, TimestampSigner

LONGEST_SECONDS: Final = 12 * 3600
IDLE_SECONDS: Final = 3600
MAXIMUM_SESSIONS: Final = 1000
LOGIN_FORM_SECONDS: Final = 3600


@dataclass(slots=True)
class Session:
    """One person logged in."""

    number: str
    user: str
    as_of: dt.datetime  # when the user was last changed: another time than now ends the session
    csrf: str
    browser: str  # as it named itself at the log-in: its cookie in another one was stolen
    began: float
    seen: float


class Sessions:
    """The sessions of this process."""

    def __init__(self, secret_key: str, clock: Callable[[], float] = monotonic) -> None:
        """Keep the key and the clock."""
        self._signer = TimestampSigner(secret_key, salt="carpus-session")
        self._login_signer = TimestampSigner(secret_key, salt="carpus-login")
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()

    def begin(self, user: str, as_of: dt.datetime, browser: str) -> tuple[Session, str]:
        """Log somebody in; return the session and the value of its cookie."""
        now = self._clock()
        session = Session(secrets.token_urlsafe(24), user, as_of, secrets.token_urlsafe(24), browser, now, now)
        with self._lock:
            self._sessions = {number: s for number, s in self._sessions.items() if self._alive(s, now)}
            while len(self._sessions) >= MAXIMUM_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda number: self._sessions[number].seen)]
            self._sessions[session.number] = session
        return session, self._signer.sign(session.number).decode()

    def find(self, cookie: str, *, touch: bool = True) -> Session | None:
        """Return the session of a cookie, or None when it is forged, expired or logged out.

        Parameters
        ----------
        touch
            Whether this request is a sign of a person; a page that refreshes itself is none.
        """
        try:
            number = self._signer.unsign(cookie, max_age=LONGEST_SECONDS).decode()
        except (BadSignature, UnicodeDecodeError):
            return None
        now = self._clock()
        with self._lock:
            session = self._sessions.get(number)
            if session is None or not self._alive(session, now):
                self._sessions.pop(number, None)
                return None
            if touch:
                session.seen = now
            return session

    def end(self, session: Session) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(session.number, None)

    def login_token(self) -> str:
        """Return a token for the form of somebody who has no session yet; the same value goes into a cookie."""
        return self._login_signer.sign(secrets.token_urlsafe(16)).decode()

    def is_login_token(self, form: str, cookie: str) -> bool:
        """Whether the form was ours: its token is signed, fresh and the one in the cookie."""
        try:
            self._login_signer.unsign(form, max_age=LOGIN_FORM_SECONDS)
        except BadSignature:
            return False
        return secrets.compare_digest(form.encode(), cookie.encode())

    @staticmethod
    def _alive(session: Session, now: float) -> bool:
        return now - session.began < LONGEST_SECONDS and now - session.seen < IDLE_SECONDS
