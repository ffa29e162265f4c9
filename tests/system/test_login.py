"""Log-in, log-out and refusals as a real browser meets them: its rules for forms and cookies are stricter than a test client's."""

from pathlib import Path

import pytest

from tests.identity_provider import IdentityProvider, serving
from tests.integration.serving import free_ports
from tests.integration.test_web_server import web
from tests.service.people import PASSWORD
from tests.system.browser import Browser
from tests.system.tools import tool

pytestmark = pytest.mark.system
BUTTON = "document.querySelector('form[action=\"{}\"] button')"


def test_a_browser_comes_in_at_the_providers_and_with_a_password_and_nothing_is_left_after_log_out(
    tmp_path: Path,
) -> None:
    chromium = tool("chromium", "chromium")
    provider = IdentityProvider()
    (port,) = free_ports(1)
    provider.public = at = f"http://127.0.0.1:{port}"
    # Another site, not only another origin: what a strict cookie asks.
    with serving(provider, host="localhost"):
        oidc = {
            "issuer": provider.issuer,
            "client_id": "carpus",
            "client_secret": "client secret",
            "role_claim": "realm_access.roles",
            "roles": {"carpus-readers": "radiologist"},
        }
        (tmp_path / "profile").mkdir()
        with (
            web(tmp_path, port=port, public_url=at, oidc=oidc),
            Browser(chromium, tmp_path / "profile") as browser,
        ):
            browser.open(f"{at}/login?next=/films/7")
            browser.wait_for("!!" + BUTTON.format("/login/oidc"))
            browser.evaluate(BUTTON.format("/login/oidc") + ".click()")
            # There is no film 7, which the page of a browser says, to who is logged in.
            browser.wait_for("location.pathname == '/films/7' && document.title == 'Not found · Carpus'")
            assert browser.evaluate("document.querySelector('.user').textContent") == "lichen"
            browser.open(f"{at}/system")
            browser.wait_for("document.title == 'Not allowed · Carpus'")
            browser.evaluate(BUTTON.format("/logout") + ".click()")
            browser.wait_for("location.pathname == '/login' && document.readyState == 'complete'")
            browser.open(f"{at}/")
            browser.wait_for("location.pathname == '/login' && document.readyState == 'complete'")
            for name, value in (("user", "admin"), ("password", PASSWORD)):
                browser.evaluate(f"document.querySelector('input[name={name}]').value = '{value}'")
            browser.evaluate(BUTTON.format("/login") + ".click()")
            browser.wait_for("location.pathname == '/' && !!document.querySelector('.user')")
            assert browser.evaluate("document.cookie") == ""  # no script sees the session
            assert browser.errors() == []
