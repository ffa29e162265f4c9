"""Every route with every role: what is allowed is in the table, what is not in the table is refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.queue.jobs import State
from service.trust.accounts import Role
from service.web.guard import COOKIE
from service.web.permissions import PERMISSIONS, may
from tests.service.installation import Installation
from tests.service.people import PASSWORD, House, token

EVERYBODY: tuple[Role | None, ...] = (*Role, None)
REFUSED = {401, 403}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = Installation(tmp_path)
    yield House(made)
    made.jobs.engine.dispose()


def declared(house: House) -> set[tuple[str, str]]:
    """Return (path, method) of every route of the application."""
    return {
        (route.path, method)
        for route in house.app.routes
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }


def test_every_route_is_in_the_table_and_the_table_names_no_other(house: House) -> None:
    assert {(path, method) for path, methods in PERMISSIONS.items() for method in methods} == declared(house)


@pytest.mark.parametrize("role", EVERYBODY, ids=lambda role: role.value if role else "nobody")
def test_every_role_passes_where_the_table_says_and_nowhere_else(house: House, role: Role | None) -> None:
    job_id = house.installation.infer()
    client = house.visit(role)
    seen = {}
    for path, method in sorted(declared(house)):
        if path == "/logout":
            continue
        address = (
            path.replace("{number:int}", str(job_id)).replace("{action:str}", "cancel").replace("{queue:str}", "intake")
        )
        address = "/static/carpus.css" if path == "/static" else address
        answer = client.request(method, address)
        if path.startswith("/login"):  # its own pages say 403 to a form that is too old
            seen[path, method] = "Log in first." not in answer.text
        else:
            refused = answer.status_code in REFUSED and "form was not sent" not in answer.text
            to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
            seen[path, method] = not (refused or to_login)
    assert seen == {(path, method): may(role, path, method) for path, method in seen}
    assert house.installation.jobs.get(job_id).state == State.INFERRED  # nobody sent the token of a form


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_another_method_is_refused_also_for_the_administrator(house: House, method: str) -> None:
    assert house.visit(Role.ADMINISTRATOR).request(method, "/films/1/cancel").status_code in (403, 405)
    assert house.visitor().request(method, "/").status_code == 401


def test_a_route_without_an_entry_is_refused_to_everybody(house: House) -> None:
    def forgotten(_request: Request) -> Response:
        return PlainTextResponse("secret")

    house.app.router.routes.append(Route("/forgotten", forgotten))
    routes = house.app.user_middleware[-1].kwargs["routes"]
    assert isinstance(routes, list)
    routes.append(Route("/forgotten", forgotten))
    for role in EVERYBODY:
        answer = house.visit(role).get("/forgotten")
        assert answer.status_code in (303, 401, 403)
        assert "secret" not in answer.text


def test_a_viewer_sees_a_pseudonym_and_a_radiologist_the_study(house: House) -> None:
    job_id = house.installation.confirm()
    uid = house.installation.jobs.instance(house.installation.jobs.get(job_id).instance_id).StudyInstanceUID
    pages = {role: house.visit(role).get(f"/films/{job_id}").text for role in (Role.VIEWER, Role.RADIOLOGIST)}
    assert uid in pages[Role.RADIOLOGIST]
    assert uid not in pages[Role.VIEWER]
    assert re.search(r">[A-Z2-7]{8}</span> <span class=\"faint\">pseudonym<", pages[Role.VIEWER])
    # The objects of the PACS are named to who may look for them there.
    assert ">2.25." in pages[Role.RADIOLOGIST]
    assert ">2.25." not in pages[Role.VIEWER]
    # A guess at a UID is not answered either.
    found = {role: house.visit(role).get(f"/?q={uid}").text for role in (Role.VIEWER, Role.RADIOLOGIST)}
    assert f"#{job_id}<" in found[Role.RADIOLOGIST]
    assert f"#{job_id}<" not in found[Role.VIEWER]


def test_only_what_the_role_may_do_is_offered(house: House) -> None:
    job_id = house.installation.infer()
    viewer, admin = house.visit(Role.VIEWER), house.visit(Role.ADMINISTRATOR)
    for path in ("/", f"/films/{job_id}"):
        assert 'href="/system"' not in viewer.get(path).text
        assert 'href="/system"' in admin.get(path).text
    assert "/cancel" not in viewer.get(f"/films/{job_id}").text
    assert "/cancel" in admin.get(f"/films/{job_id}").text


@pytest.mark.parametrize("change", ["disable", "password", "role"])
def test_a_change_of_the_user_ends_the_session_at_once(house: House, change: str) -> None:
    client = house.visit(Role.VIEWER)
    assert client.get("/").status_code == 200
    house.installation.clock.pass_by(1)
    if change == "disable":
        house.accounts.set_disabled("viewer", True)
    elif change == "password":
        house.accounts.set_password("viewer", "another long password")
    else:
        house.accounts.set_role("viewer", Role.RADIOLOGIST)
    assert client.get("/").status_code == 303


def test_metrics_are_for_monitors(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    house = House(installation)
    assert house.visitor(client=("10.0.0.9", 1)).get("/metrics").status_code == 401
    assert house.visitor(client=("127.0.0.1", 1), base_url="http://localhost").get("/metrics").status_code == 200
    # A proxy on this machine that the settings do not know: whoever stands behind it is no monitor.
    forwarded = {"X-Forwarded-For": "10.0.0.9"}
    assert house.visitor(client=("127.0.0.1", 1)).get("/metrics", headers=forwarded).status_code == 401
    assert house.visit(Role.SERVICE).get("/metrics").status_code == 200
    wrong = {"Authorization": "Bearer carpus_wrong"}
    assert house.visitor().get("/metrics", headers=wrong).status_code == 401
    assert "checks" in house.visit(Role.SERVICE).get("/health/ready").json()
    assert "checks" not in house.visitor().get("/health/ready").json()
    house.accounts.set_disabled("monitor", True)
    assert house.visit(Role.SERVICE).get("/metrics").status_code == 401
    installation.jobs.engine.dispose()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8042", "", "[::1", "127.0.0.1.evil.example", "localhost."]
)
def test_a_site_whose_name_leads_to_this_machine_reads_no_metrics(house: House, host: str) -> None:
    visitor = house.visitor(client=("127.0.0.1", 1))
    assert visitor.get("/metrics", headers={"Host": host}).status_code == 401
    assert "checks" not in visitor.get("/health/ready", headers={"Host": host}).json()


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8042", "localhost:8042", "[::1]:8042", "LOCALHOST", "carpus.hospital.example"]
)
def test_a_monitor_on_this_machine_calls_us_by_our_address_or_name(tmp_path: Path, host: str) -> None:
    installation = Installation(tmp_path)
    house = House(installation, web={"public_url": "https://carpus.hospital.example"})
    assert house.visitor(client=("127.0.0.1", 1)).get("/metrics", headers={"Host": host}).status_code == 200
    installation.jobs.engine.dispose()


def test_a_monitor_elsewhere_calls_us_as_its_network_does(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    house = House(installation, web={"monitor_addresses": ("172.20.0.0/16",)})
    assert house.visitor(client=("172.20.0.5", 1)).get("/metrics", headers={"Host": "web:8042"}).status_code == 200
    installation.jobs.engine.dispose()


def test_a_token_opens_no_page_and_is_no_cookie(house: House) -> None:
    client = house.visit(Role.SERVICE)
    assert client.get("/").status_code == 403
    fresh = house.visitor()
    fresh.cookies.set(COOKIE, house.tokens["monitor"])
    assert fresh.get("/").status_code == 303


def test_a_service_cannot_log_in_with_a_password(house: House) -> None:
    client = house.visitor()
    form = {"user": "monitor", "password": PASSWORD, "csrf": token(client.get("/login").text)}
    assert client.post("/login", data=form).status_code == 401
