"""Log-in at an identity provider that may lie."""

import base64
import html
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.settings import OidcSettings, WebSettings
from service.trust.accounts import Role
from service.web import guard
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
