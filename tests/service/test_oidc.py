"""Log-in at an identity provider: one of our own, on loopback, that can be told to lie."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.settings import OidcSettings, WebSettings
from service.trust.accounts import Role
from service.web import guard
from tests.service.installation import Installation
from tests.service.people import House, token

PUBLIC = "http://127.0.0.1:8042"


@dataclass
class IdentityProvider:
    """A provider with one user, its authorisation endpoint played by `sign_in`."""

    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))
    claims: dict[str, Any] = field(default_factory=dict)  # added to what it says of the user, or instead of it
    sign: Callable[[dict[str, Any]], str] | None = None
    issuer: str = ""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def sign_in(self, url: str) -> dict[str, str]:
        """Play the user who logs in: return what the browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == f"{PUBLIC}/login/oidc/callback"
        assert "openid" in asked["scope"]
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def redeem(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Answer the token endpoint; None refuses."""
        asked = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(b"carpus:client secret").decode()
        if asked is None or authorization != f"Basic {basic}":
            return None
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return None
        now = int(time.time())
        said = {
            "iss": self.issuer,
            "aud": "carpus",
            "sub": "4711",
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "preferred_username": "lichen",
            "name": "Li Chen",
            "realm_access": {"roles": ["offline_access", "carpus-readers"]},
        } | self.claims
        id_token = self.sign(said) if self.sign else jwt.encode({"alg": "ES256", "kid": "one"}, said, self.key)
        return {"access_token": "x", "token_type": "Bearer", "id_token": id_token}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                at = provider.issuer
                pages = {
                    "/.well-known/openid-configuration": {
                        "issuer": at,
                        "authorization_endpoint": f"{at}/authorize",
                        "token_endpoint": f"{at}/token",
                        "jwks_uri": f"{at}/keys",
                    },
                    "/keys": {"keys": [provider.key.as_dict(private=False)]},
                }
                self._answer(pages.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._answer(provider.redeem(form, self.headers.get("Authorization", "")))

            def _answer(self, found: Any) -> None:
                text = json.dumps(found if found is not None else {"error": "invalid_grant"}).encode()
                self.send_response(200 if found is not None else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    with ThreadingHTTPServer(("127.0.0.1", 0), made.handler()) as server:
        made.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def house(tmp_path: Path, provider: IdentityProvider) -> Iterator[House]:
    oidc = OidcSettings(
        issuer=provider.issuer,
        client_id="carpus",
        client_secret="client secret",
        role_claim="realm_access.roles",
        roles={"carpus-readers": "radiologist", "carpus-guests": "viewer", "carpus-admins": "administrator"},
    )
    made = Installation(tmp_path)
    yield House(made, web={"oidc": oidc, "public_url": PUBLIC})
    made.jobs.engine.dispose()


def begin(client: TestClient, target: str = "/") -> str:
    """Press the button; return the address at the provider."""
    page = client.get(f"/login?next={target}").text
    assert "Hospital account" in page
    answer = client.post("/login/oidc", data={"csrf": token(page), "next": target})
    assert answer.status_code == 303
    assert "SameSite=lax" in answer.headers["set-cookie"]
    return str(answer.headers["location"])


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


LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"claims": {"iss": "https://evil.example"}},
    "another client": {"claims": {"aud": "somebody-else"}},
    "issued for two, used by the other": {"claims": {"aud": ["carpus", "other"], "azp": "other"}},
    "expired": {"claims": {"exp": int(time.time()) - 600}},
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


def test_a_way_back_that_this_browser_did_not_begin_is_refused(house: House, provider: IdentityProvider) -> None:
    attacker, victim = house.visitor(), house.visitor()
    brought = provider.sign_in(begin(attacker))
    assert victim.get("/login/oidc/callback", params=brought).status_code == 403  # log-in CSRF
    assert attacker.get("/login/oidc/callback", params=brought).status_code == 200
    assert attacker.get("/login/oidc/callback", params=brought).status_code == 403  # once
    assert house.visitor().get("/login/oidc/callback").status_code == 403


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
    oidc = OidcSettings(issuer="http://127.0.0.1:9", client_id="carpus", roles={"x": "viewer"})
    made = Installation(tmp_path)
    client = House(made, web={"oidc": oidc, "public_url": PUBLIC}).visitor()
    answer = client.post("/login/oidc", data={"csrf": token(client.get("/login").text)})
    assert answer.status_code == 403
    assert "does not answer" in answer.text
    made.jobs.engine.dispose()


def test_a_provider_is_asked_over_tls_alone() -> None:
    with pytest.raises(ValidationError, match="must be an https address"):
        OidcSettings(issuer="http://id.example", client_id="carpus", roles={"x": "viewer"})
    oidc = OidcSettings(issuer="https://id.example/", client_id="carpus", roles={"x": "viewer"})
    assert oidc.issuer == "https://id.example"
    with pytest.raises(ValidationError, match="public_url"):
        WebSettings(oidc=oidc)
