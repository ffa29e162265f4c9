"""The pages with one user of every role, and how to visit them."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.testclient import TestClient

from service.settings import WebSettings
from service.trust.accounts import Accounts, Role
from service.web.app import create_app
from service.web.credentials import Credentials
from tests.service.installation import Installation

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)  # real argon2, quick to check


@dataclass
class House:
    """An installation whose pages know one user of each role, each with the same password."""

    installation: Installation
    web: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @cached_property
    def app(self) -> Starlette:
        web = WebSettings(password_hash=CHEAP, secret_key="s" * 40, **self.web)
        settings = self.installation.settings.model_copy(update={"web": web})
        app = create_app(settings, self.installation.jobs, Credentials.open(settings))
        for role in (Role.VIEWER, Role.RADIOLOGIST):  # past the real, slow hash
            self.accounts._insert(role.value, role, "Chen^Li", password_hash=CHEAP)
        self.tokens["monitor"] = self.accounts.add("monitor", Role.SERVICE) or ""
        return app

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self.installation.jobs.engine, self.installation.clock)

    def visitor(self, **options: Any) -> TestClient:
        """Return somebody whom nobody knows."""
        return TestClient(self.app, follow_redirects=False, **options)

    def visit(self, role: Role | None, **options: Any) -> TestClient:
        """Return a client of this role: logged in, with a token, or neither."""
        client = self.visitor(**options)
        if role is Role.SERVICE:
            client.headers["Authorization"] = f"Bearer {self.tokens['monitor']}"
        elif role is not None:
            name = "admin" if role is Role.ADMINISTRATOR else role.value
            form = {"user": name, "password": PASSWORD, "csrf": token(client.get("/login").text)}
            assert client.post("/login", data=form).status_code == 303
        return client


def token(page: str) -> str:
    """Return the token of the first form of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]
