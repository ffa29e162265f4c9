"""Ask an identity provider who somebody is (OpenID Connect Core 3.1: authorisation code, with PKCE and nonce).

What a visitor brings back is believed only when it belongs to a log-in that this browser began here, and when the provider's
signature, issuer, audience, time and nonce hold. A log-in that was begun is kept by the browser, in a signed cookie: whoever begins
thousands pushes out nobody's. The role comes from a claim; who has none of the mapped values stays outside.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Final, Self

from itsdangerous import BadSignature, URLSafeSerializer

from service.bounded_http import Bounded
from service.errors import InvalidConfiguration, Permanent, installing
from service.settings import OidcSettings, WebSettings, require_https
from service.trust.accounts import Role

CALLBACK: Final = "/login/oidc/callback"
PENDING_SECONDS: Final = 600
MAXIMUM_FINISHED: Final = 10_000  # states that are refused a second time; the provider redeems no code twice either
LONGEST_COOKIE: Final = 3_000  # browsers keep 4,096 bytes
METADATA_SECONDS: Final = 3600
TIMEOUT_SECONDS: Final = 10  # for one answer of the provider, from its first byte to its last
MAXIMUM_BYTES: Final = 2**20  # of one answer
AT_ONCE: Final = 8  # questions under way: a provider that is slow holds no more of the threads that serve the pages
ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
LONGEST_SUBJECT: Final = 255  # OpenID Connect Core 2
LEEWAY_SECONDS: Final = 60  # between the clocks of provider and service
# Asymmetric alone: with a symmetric one whoever knows the client secret could vouch.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
STRONGEST_FIRST: Final = (Role.ADMINISTRATOR, Role.RADIOLOGIST, Role.VIEWER)


class Refused(Permanent):
    """The provider cannot be reached, or what came back from it is not believed."""

    code = "identity-provider"


@dataclass(frozen=True, slots=True)
class Claims:
    """What the provider says of somebody, in our words."""

    subject: str
    name: str
    observer_name: str
    role: Role
    target: str  # where the visitor wanted to go


@dataclass(frozen=True, slots=True)
class Begun:
    """A log-in that waits for the visitor to come back."""

    state: str
    nonce: str
    verifier: str
    target: str
    at: float


@dataclass(frozen=True, slots=True)
class Way:
    """Where the visitor is sent, and the cookie that comes back from there."""

    url: str
    cookie: str


class Provider:
    """One identity provider, asked when somebody logs in.

    Parameters
    ----------
    web
        With `oidc` and `public_url`.
    """

    def __init__(self, web: WebSettings, oidc: OidcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = oidc.issuer
        self._settings = oidc
        self._redirect_uri = web.public_url.rstrip("/") + CALLBACK
        self._clock = clock
        self._lock = threading.Lock()
        # Of this process: what was begun before a restart counts as too old.
        self._signer = URLSafeSerializer(secrets.token_bytes(32), salt="carpus-oidc")
        self._finished: dict[str, float] = {}
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._asking = threading.BoundedSemaphore(AT_ONCE)

    @classmethod
    def of(cls, web: WebSettings) -> Self | None:
        """Return the provider of the settings, None where there is none.

        Raises
        ------
        InvalidConfiguration
            When the packages for it are not installed.
        """
        if web.oidc is None:
            return None
        try:
            import authlib  # noqa: F401
            import joserfc  # noqa: F401
            import requests  # noqa: F401
        except ModuleNotFoundError as error:
            raise InvalidConfiguration(
                f"web.oidc needs {error.name}, which is not installed", next_action=installing("oidc")
            ) from error
        return cls(web, web.oidc)

    def begin(self, target: str) -> Way:
        """Return the address at the provider to send the visitor to, and the cookie that has to come back with the visitor.

        Raises
        ------
        Refused
            When the provider does not answer.
        """
        verifier, nonce, now = secrets.token_urlsafe(48), secrets.token_urlsafe(24), self._clock()
        endpoint = str(self._described()["authorization_endpoint"])
        with self._client() as client:
            url, state = client.create_authorization_url(
                endpoint, state=secrets.token_urlsafe(24), nonce=nonce, code_verifier=verifier
            )
        cookie = self._sealed(Begun(state, nonce, verifier, target, now))
        if len(cookie) > LONGEST_COOKIE:
            cookie = self._sealed(Begun(state, nonce, verifier, "/", now))
        return Way(url, cookie)

    def finish(self, query: Mapping[str, str], cookie: str) -> Claims:
        """Return what the provider says of the visitor who came back.

        Parameters
        ----------
        query
            What the provider sent along with the visitor.
        cookie
            That `begin` had set.

        Raises
        ------
        Refused
            When anything does not hold.
        """
        begun = self._opened(cookie)
        if begun is None or not secrets.compare_digest(query.get("state", "").encode(), begun.state.encode()):
            raise Refused("it does not belong to a log-in of this browser")
        if self._clock() - begun.at > PENDING_SECONDS or not self._is_first(begun):
            raise Refused("the log-in took too long, or was finished already")
        if "error" in query or "code" not in query:
            raise Refused(f"the provider says {query.get('error', 'nothing')[:64]!r}")
        claims = self._verified(self._identity(query["code"], begun), begun)
        return Claims(
            claims["sub"],
            (_text(claims, self._settings.name_claim) or claims["sub"])[:64],
            _person_name(_text(claims, self._settings.observer_claim)),
            self._role(claims),
            begun.target,
        )

    def _sealed(self, begun: Begun) -> str:
        return str(self._signer.dumps(astuple(begun)))

    def _opened(self, cookie: str) -> Begun | None:
        """Return the log-in that a cookie of ours holds; None for any other."""
        try:
            return Begun(*self._signer.loads(cookie))
        except BadSignature:
            return None

    def _is_first(self, begun: Begun) -> bool:
        """Whether nobody came back with this log-in before."""
        now = self._clock()
        with self._lock:
            if begun.state in self._finished:
                return False
            self._finished = {state: at for state, at in self._finished.items() if now - at <= PENDING_SECONDS}
            while len(self._finished) >= MAXIMUM_FINISHED:
                del self._finished[next(iter(self._finished))]
            self._finished[begun.state] = begun.at
        return True

    def _identity(self, code: str, begun: Begun) -> str:
        """Redeem the code at the provider; return the ID token."""
        from authlib.integrations.base_client import OAuthError

        endpoint = self._described()["token_endpoint"]
        try:
            with self._client() as client, self._asked(client):
                token = client.fetch_token(
                    endpoint, grant_type="authorization_code", code=code, code_verifier=begun.verifier
                )
        except (OAuthError, OSError, ValueError, RecursionError) as error:
            raise Refused(f"the provider did not redeem the code ({type(error).__name__})") from error
        if not isinstance(token.get("id_token"), str):
            raise Refused("the provider sent no ID token")
        return str(token["id_token"])

    def _verified(self, id_token: str, begun: Begun) -> dict[str, Any]:
        """Check signature and claims (OpenID Connect Core 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        wanted = self._settings.client_id
        published = self._fetched(self._described()["jwks_uri"])
        try:
            keys = KeySet.import_key_set(published)  # type: ignore[arg-type]
            claims: dict[str, Any] = jwt.decode(id_token, keys, algorithms=list(ALGORITHMS)).claims
            jwt.JWTClaimsRegistry(
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": self.issuer},
                aud={"essential": True, "value": wanted},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": begun.nonce},
            ).validate(claims)
        except (
            JoseError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # what foreign bytes make of a key set
            raise Refused(f"the ID token does not hold ({type(error).__name__})") from error
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else wanted) != wanted:
            raise Refused("the ID token was issued for another client")
        if claims["nonce"] != begun.nonce:  # the library takes a list with it, too
            raise Refused("the ID token answers another log-in")
        subject = claims["sub"]
        if not (subject.isascii() and subject.isprintable() and len(subject) <= LONGEST_SUBJECT):
            raise Refused(f"the claim sub is no text of at most {LONGEST_SUBJECT} printable ASCII characters")
        return claims

    def _role(self, claims: Mapping[str, Any]) -> Role:
        found: Any = claims
        for part in self._settings.role_claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        values = [found] if isinstance(found, str) else [] if found is None else found
        if not isinstance(values, list):  # what {"admins": false} means is not ours to guess
            raise Refused(f"the claim {self._settings.role_claim} is neither a text nor a list of texts")
        roles = {
            self._settings.roles[value] for value in values if isinstance(value, str) and value in self._settings.roles
        }
        for role in STRONGEST_FIRST:
            if role.value in roles:
                return role
        raise Refused(f"no value of the claim {self._settings.role_claim} has a role here")

    def _described(self) -> dict[str, Any]:
        """Return the provider's description of itself (OpenID Connect Discovery 4), kept for an hour."""
        if self._metadata is None or self._clock() - self._metadata[0] > METADATA_SECONDS:
            found = self._fetched(f"{self.issuer}/.well-known/openid-configuration")
            if found.get("issuer") != self.issuer:
                raise Refused("the provider calls itself by another name than the setting web.oidc.issuer")
            for name in ENDPOINTS:
                if not isinstance(found.get(name), str):
                    raise Refused(f"the provider does not name its {name}")
                try:
                    require_https(name, found[name])  # the client secret and the visitor go there
                except ValueError as error:
                    raise Refused(f"the provider's {error}") from error
            self._metadata = (self._clock(), found)
        return self._metadata[1]

    def _fetched(self, url: str) -> dict[str, Any]:
        import requests

        try:
            with requests.Session() as session, self._asked(session):
                answer = session.get(url)
                answer.raise_for_status()
                found = answer.json()
        except (OSError, ValueError, RecursionError) as error:
            raise Refused(f"the provider does not answer ({type(error).__name__})") from error
        if not isinstance(found, dict):
            raise Refused("the provider answers with no JSON object")
        return found

    def _client(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        return OAuth2Session(
            self._settings.client_id,
            self._settings.client_secret.get_secret_value() or None,
            scope=self._settings.scopes,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        )

    @contextmanager
    def _asked(self, session: Any) -> Iterator[None]:
        """Have a session take one answer: from whom we trust, in time, of a size that such answers have, from nowhere else."""
        deadline = time.monotonic() + TIMEOUT_SECONDS

        def seconds_left() -> float:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no whole answer within {TIMEOUT_SECONDS} s")
            return left

        session.verify = self._trust()
        for scheme in ("http://", "https://"):
            session.mount(scheme, Bounded(seconds_left, MAXIMUM_BYTES))
        if not self._asking.acquire(blocking=False):
            raise Refused("it is slow, and others wait for it already; try again in a minute")
        try:
            yield
        finally:
            self._asking.release()

    def _trust(self) -> bool | str:
        return str(self._settings.authorities) if self._settings.authorities else True


def _text(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name) or ""
    if not isinstance(found, str):
        raise Refused(f"the claim {name} is no text")
    return found


def _person_name(text: str) -> str:
    """Return a display name ("Li Chen") in the form of PS3.5 6.2 (Chen^Li); one that has the form already stays."""
    text = "".join(letter for letter in text if letter.isprintable() and letter != "\\")[:60].strip()
    if "^" in text or " " not in text:
        return text
    given, _, family = text.rpartition(" ")
    return f"{family}^{given}"
