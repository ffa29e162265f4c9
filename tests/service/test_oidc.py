"""Log-in at an identity provider that may lie."""

import base64
import gzip
import hmac
import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.settings import OidcSettings, WebSettings
from service.trust.accounts import Role
from service.web import guard, oidc
from tests.identity_provider import PUBLIC, IdentityProvider, serving
from tests.service.installation import Installation
from tests.service.people import House, token


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    with serving(made):
        yield made


@pytest.fixture
def house(tmp_path: Path, provider: IdentityProvider) -> Iterator[House]:
    settings = OidcSettings(
        issuer=provider.issuer,
        client_id="carpus",
        client_secret="client secret",
        role_claim="realm_access.roles",
        roles={"carpus-readers": "radiologist", "carpus-guests": "viewer", "carpus-admins": "administrator"},
    )
    made = Installation(tmp_path)
    yield House(made, web={"oidc": settings, "public_url": PUBLIC})
    made.jobs.engine.dispose()


def begin(client: TestClient, target: str = "/") -> str:
    """Press the button; return the address at the provider."""
    page = client.get(f"/login?next={target}").text
    assert "Hospital account" in page
    answer = client.post("/login/oidc", data={"csrf": token(page), "next": target})
    # No redirect: a browser holds `form-action` against where a form's redirect leads (tests/system/test_login.py).
    assert answer.status_code == 200
    assert "SameSite=lax" in answer.headers["set-cookie"]
    found = re.search(r'content="0; url=([^"]+)"', answer.text)
    assert found
    return html.unescape(found[1])


def test_who_the_provider_vouches_for_gets_in_with_the_role_of_the_claim(
    house: House, provider: IdentityProvider
) -> None:
    client = house.visitor()
    job_id = house.installation.confirm()
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client, f"/films/{job_id}")))
    assert back.status_code == 200
    # The strict cookie does not come along on a redirect that the provider's site began: the page leads on by itself.
    assert f'content="0; url=/films/{job_id}"' in back.text
    assert client.get(f"/films/{job_id}").status_code == 200
    assert client.get("/system").status_code == 403
    user = house.accounts.find("lichen")
    assert user is not None
    assert (user.role, user.observer_name, user.source) == (Role.RADIOLOGIST, "Chen^Li", provider.issuer)


def test_the_role_follows_the_claim_at_the_next_log_in(house: House, provider: IdentityProvider) -> None:
    for roles, role in (
        (["carpus-guests"], Role.VIEWER),
        (["carpus-guests", "carpus-admins"], Role.ADMINISTRATOR),
        ("carpus-readers", Role.RADIOLOGIST),
    ):
        provider.claims = {"realm_access": {"roles": roles}}
        client = house.visitor()
        assert client.get("/login/oidc/callback", params=provider.sign_in(begin(client))).status_code == 200
        user = house.accounts.find("lichen")
        assert user is not None
        assert user.role is role


def _none(claims: dict[str, Any]) -> str:
    parts = [json.dumps({"alg": "none"}), json.dumps(claims)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts) + "."


def _signed(provider: IdentityProvider, **claims: Any) -> Callable[[dict[str, Any]], str]:
    """Sign what the library for tokens would not: it knows the form of a nonce and of a text."""

    def sign(said: dict[str, Any]) -> str:
        made = said | {name: value(said) if callable(value) else value for name, value in claims.items()}
        return jws.serialize_compact({"alg": "ES256", "kid": "one"}, json.dumps(made).encode(), provider.key)

    return sign


def _answers(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        with suppress(OSError):  # who asked has had enough
            request.wfile.write(body)

    return answer


def _drips(request: BaseHTTPRequestHandler) -> None:
    with suppress(OSError):
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20:
            request.wfile.write(bytes([letter]))
            time.sleep(0.25)


LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"claims": {"iss": "https://evil.example"}},
    "another client": {"claims": {"aud": "somebody-else"}},
    "issued for two, used by the other": {"claims": {"aud": ["carpus", "other"], "azp": "other"}},
    "issued for us, used by another": {"claims": {"azp": "other"}},
    "expired": {"claims": {"exp": int(time.time()) - 600}},
    "never expires": {"claims": {"exp": float("inf")}},
    "not yet": {"claims": {"nbf": int(time.time()) + 600}},
    "issued in the future": {"claims": {"iat": int(time.time()) + 600}},
    "roles that are an object": {"claims": {"realm_access": {"roles": {"carpus-admins": False}}}},
    "a role that is a truth value": {"claims": {"realm_access": {"roles": True}}},
    "a role in a list in a list": {"claims": {"realm_access": {"roles": [["carpus-admins"]]}}},
    "roles in one text": {"claims": {"realm_access": {"roles": "carpus-readers,carpus-admins"}}},
    "a name that is an object": {"claims": {"preferred_username": {"name": "lichen"}}},
    "a name that hides letters": {"claims": {"preferred_username": "admin\u202e"}},
    "the name of somebody here": {"claims": {"preferred_username": "admin"}},
    "a subject with a zero byte": {"claims": {"sub": "4711\0"}},
    "another nonce": {"claims": {"nonce": "replayed"}},
    "no role": {"claims": {"realm_access": {"roles": ["cook"]}}},
    "no roles at all": {"claims": {"realm_access": None}},
    "a key of its own": {
        "sign": lambda said: jwt.encode({"alg": "ES256", "kid": "one"}, said, ECKey.generate_key("P-256"))
    },
    "signed with the client secret": {
        "sign": lambda said: jwt.encode(
            {"alg": "HS256", "kid": "one"}, said, OctKey.import_key("client secret, long enough for HS256")
        )
    },
    "not signed": {"sign": _none},
    "no token": {"sign": lambda _said: "garbage"},
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_what_does_not_hold_lets_nobody_in(house: House, provider: IdentityProvider, lie: str) -> None:
    for name, value in LIES[lie].items():
        setattr(provider, name, value)
    client = house.visitor()
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert back.status_code == 403
    assert "was refused" in back.text
    assert guard.COOKIE not in client.cookies
    assert house.accounts.find("lichen") is None


@pytest.mark.parametrize(
    "claims",
    [{"nonce": lambda said: ["another", said["nonce"]]}, {"sub": "\ud800"}, {"sub": "x" * 300}],
    ids=["a list of nonces", "a subject that is half a letter", "a long subject"],
)
def test_a_signature_does_not_make_up_for_what_is_signed(
    house: House, provider: IdentityProvider, claims: dict[str, Any]
) -> None:
    provider.sign = _signed(provider, **claims)
    client = house.visitor()
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert (back.status_code, house.accounts.find("lichen")) == (403, None)


def test_the_public_key_is_no_secret_to_sign_with(house: House, provider: IdentityProvider) -> None:
    published = RSAKey.generate_key(2048, {"kid": "one"})
    provider.key = published

    def sign(said: dict[str, Any]) -> str:
        parts = [json.dumps({"alg": "HS256", "kid": "one"}), json.dumps(said)]
        signed = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
        tag = hmac.digest(published.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(tag).decode().rstrip('=')}"

    provider.sign = sign
    client = house.visitor()
    assert client.get("/login/oidc/callback", params=provider.sign_in(begin(client))).status_code == 403


@pytest.mark.parametrize(
    "keys",
    [b'{"keys": 5}', b'{"keys": null}', b'{"keys": [{"kty": []}]}', b"[]", b'{"keys":' + b"[" * 100_000],
    ids=["a number", "nothing", "a kind that is a list", "no object", "nested without end"],
)
def test_keys_that_are_none_are_said(house: House, provider: IdentityProvider, keys: bytes) -> None:
    provider.answers["/keys"] = _answers(keys)
    client = house.visitor()
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert back.status_code == 403
    assert "was refused" in back.text


@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize("address", ["http://id.example/x", "javascript:alert(1)", "file:///etc/passwd", 5])
def test_an_endpoint_in_the_clear_gets_neither_visitor_nor_secret(
    house: House, provider: IdentityProvider, endpoint: str, address: Any
) -> None:
    provider.described = {endpoint: address}
    client = house.visitor()
    answer = client.post("/login/oidc", data={"csrf": token(client.get("/login").text)})
    assert answer.status_code == 403
    assert "must be an https address" in answer.text or f"does not name its {endpoint}" in answer.text


@pytest.mark.parametrize("status", [302, 307, 308])
def test_the_code_follows_no_redirect(house: House, provider: IdentityProvider, status: int) -> None:
    came: list[str] = []
    elsewhere = IdentityProvider()
    with serving(elsewhere, host="localhost"):
        elsewhere.answers["/steal"] = lambda request: came.append(request.path)
        provider.answers["/token"] = _answers(b"", status, Location=f"{elsewhere.issuer}/steal")
        client = house.visitor()
        back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert (back.status_code, came) == (403, [])


@pytest.mark.parametrize("path", ["/token", "/keys"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_measure_is_not_held(
    house: House, provider: IdentityProvider, path: str, packed: bool
) -> None:
    body = b" " * (8 * 2**20)
    provider.answers[path] = _answers(gzip.compress(body), **{"Content-Encoding": "gzip"}) if packed else _answers(body)
    client = house.visitor()
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert back.status_code == 403
    assert "(TooLarge)" in back.text


@pytest.mark.parametrize("path", ["/token", "/keys"])
def test_a_provider_that_drips_costs_its_time_limit_and_no_more(
    house: House, provider: IdentityProvider, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "TIMEOUT_SECONDS", 2)  # the answer takes ten
    provider.answers[path] = _drips
    client = house.visitor()
    brought = provider.sign_in(begin(client))
    began = time.monotonic()
    assert client.get("/login/oidc/callback", params=brought).status_code == 403
    assert time.monotonic() - began < 8


def test_a_slow_provider_holds_some_threads_and_not_all(house: House, provider: IdentityProvider) -> None:
    arrived, release = threading.Semaphore(0), threading.Event()

    def hold(_request: BaseHTTPRequestHandler) -> None:
        arrived.release()
        release.wait(20)

    provider.answers["/.well-known/openid-configuration"] = hold
    asked = oidc.Provider.of(WebSettings(**house.web))
    assert asked is not None
    with ThreadPoolExecutor(oidc.AT_ONCE) as visitors:
        waiting = [visitors.submit(asked.begin, "/") for _ in range(oidc.AT_ONCE)]
        assert all(arrived.acquire(timeout=20) for _ in waiting)
        with pytest.raises(oidc.Refused, match="others wait for it already"):
            asked.begin("/")
        release.set()
    assert {type(each.exception()) for each in waiting} == {oidc.Refused}  # it had nothing to say


def test_a_way_back_that_this_browser_did_not_begin_is_refused(house: House, provider: IdentityProvider) -> None:
    attacker, victim = house.visitor(), house.visitor()
    brought = provider.sign_in(begin(attacker))
    assert victim.get("/login/oidc/callback", params=brought).status_code == 403  # log-in CSRF
    assert attacker.get("/login/oidc/callback", params=brought).status_code == 200
    assert attacker.get("/login/oidc/callback", params=brought).status_code == 403  # once
    assert house.visitor().get("/login/oidc/callback").status_code == 403


def test_who_begins_thousands_of_log_ins_pushes_out_nobodys(house: House, provider: IdentityProvider) -> None:
    asked = oidc.Provider.of(WebSettings(**house.web))
    assert asked is not None
    way = asked.begin("/films/1")
    others = [asked.begin("/") for _ in range(2_000)]
    assert asked.finish(provider.sign_in(way.url), way.cookie).target == "/films/1"
    assert asked.finish(provider.sign_in(others[0].url), others[0].cookie).target == "/"


def test_a_cookie_that_was_not_made_here_begins_nothing(house: House, provider: IdentityProvider) -> None:
    client = house.visitor()
    brought = provider.sign_in(begin(client))
    kept = client.cookies[guard.OIDC_COOKIE]
    for forged in ("", "x", kept[:-1], f"{kept[:-4]}AAAA"):
        client.cookies.clear()
        client.cookies.set(guard.OIDC_COOKIE, forged)
        assert client.get("/login/oidc/callback", params=brought).status_code == 403, forged
    client.cookies.clear()
    client.cookies.set(guard.OIDC_COOKIE, kept)
    assert client.get("/login/oidc/callback", params=brought).status_code == 200


def test_a_wish_that_no_cookie_can_hold_leads_to_the_first_page(house: House, provider: IdentityProvider) -> None:
    asked = oidc.Provider.of(WebSettings(**house.web))
    assert asked is not None
    way = asked.begin(f"/?q={''.join(chr(0x4E00 + i) for i in range(3_000))}")
    assert len(way.cookie) < 4_000
    assert asked.finish(provider.sign_in(way.url), way.cookie).target == "/"


def test_a_refusal_of_the_provider_is_said(house: House, provider: IdentityProvider) -> None:
    client = house.visitor()
    state = provider.sign_in(begin(client))["state"]
    back = client.get("/login/oidc/callback", params={"state": state, "error": "<b>access_denied</b>"})
    assert back.status_code == 403
    assert "access_denied" in back.text
    assert "<b>access" not in back.text


def test_a_user_disabled_here_stays_outside(house: House, provider: IdentityProvider) -> None:
    client = house.visitor()
    client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    house.accounts.set_disabled("lichen", True)
    assert client.get("/").status_code == 303
    back = client.get("/login/oidc/callback", params=provider.sign_in(begin(client)))
    assert back.status_code == 403
    assert "is disabled here" in back.text


def test_a_provider_that_does_not_answer_is_said(tmp_path: Path) -> None:
    settings = OidcSettings(issuer="http://127.0.0.1:9", client_id="carpus", roles={"x": "viewer"})
    made = Installation(tmp_path)
    client = House(made, web={"oidc": settings, "public_url": PUBLIC}).visitor()
    answer = client.post("/login/oidc", data={"csrf": token(client.get("/login").text)})
    assert answer.status_code == 403
    assert "does not answer" in answer.text
    made.jobs.engine.dispose()


def test_a_provider_is_asked_over_tls_alone() -> None:
    with pytest.raises(ValidationError, match="must be an https address"):
        OidcSettings(issuer="http://id.example", client_id="carpus", roles={"x": "viewer"})
    settings = OidcSettings(issuer="https://id.example/", client_id="carpus", roles={"x": "viewer"})
    assert settings.issuer == "https://id.example"
    with pytest.raises(ValidationError, match="public_url"):
        WebSettings(oidc=settings)
