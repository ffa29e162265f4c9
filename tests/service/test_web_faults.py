"""What cannot be done, through HTTP: a page for a browser, JSON or a line for a program, and nothing that was not meant to be said."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import Response as Answer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service.trust.accounts import Role
from service.web.faults import WORDS
from service.web.guard import HEADERS, MAXIMUM_BODY_BYTES
from tests.service.installation import Installation
from tests.service.people import House, token

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PROGRAM = {"Accept": "application/json"}
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = Installation(tmp_path)
    yield House(made)
    made.jobs.engine.dispose()


def ask(client: TestClient, status: int, headers: dict[str, str]) -> Answer:
    """Bring about one refusal."""
    match status:
        case 401:
            return client.post("/films/1/cancel", data={"csrf": "x"}, headers=headers)
        case 403:
            return client.get("/system", headers=headers)
        case 404:
            return client.get("/films/999", headers=headers)
        case 413:
            return client.post("/login", data={"user": "x" * (MAXIMUM_BODY_BYTES + 1)}, headers=headers)
    raise AssertionError(status)


@pytest.mark.parametrize(
    ("status", "role"), [(401, None), (403, Role.VIEWER), (404, Role.VIEWER), (413, None)], ids=str
)
def test_a_refusal_is_a_page_for_a_browser_json_for_a_program_and_a_line_for_the_rest(
    house: House, status: int, role: Role | None
) -> None:
    client = house.visit(role)
    answers = [ask(client, status, headers) for headers in (BROWSER, PROGRAM, {"Accept": "*/*"})]
    assert [answer.status_code for answer in answers] == [status] * 3
    page, data, line = answers
    assert f"<title>{WORDS[status][0]} · Carpus</title>" in page.text
    assert f'<p class="status">{status}</p>' in page.text
    assert data.json() == {"status": status, "title": WORDS[status][0], "detail": line.text}
    assert line.headers["content-type"].startswith("text/plain")
    assert line.text in page.text
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert answer.headers["cache-control"] == "no-store"


def test_a_page_that_takes_no_such_method_says_so_and_which_it_takes(house: House) -> None:
    answer = house.visit(Role.ADMINISTRATOR).request("DELETE", "/system", headers=BROWSER)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert "<title>Not possible here · Carpus</title>" in answer.text


def test_who_is_locked_out_is_told_for_how_long(house: House) -> None:
    client = house.visitor()
    for _ in range(20):
        form = {"user": "viewer", "password": "wrong password", "csrf": token(client.get("/login").text)}
        answer = client.post("/login", data=form)
        if answer.status_code == 429:
            break
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_hostile_texts_of_a_refusal_are_shown_as_text(house: House) -> None:
    def refuse(_request: Request) -> Response:
        raise HTTPException(404, HOSTILE)

    replace(house, "/", refuse)
    client = house.visit(Role.VIEWER)
    page = client.get("/", headers=BROWSER).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert client.get("/", headers=PROGRAM).json()["detail"] == HOSTILE
    assert client.get("/").headers["content-type"].startswith("text/plain")  # with nosniff: no browser runs it


@pytest.mark.parametrize("accept", [BROWSER, PROGRAM, {"Accept": "*/*"}], ids=["browser", "program", "line"])
def test_an_error_nobody_foresaw_tells_neither_visitor_nor_log_what_it_held(
    house: House, accept: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_request: Request) -> Response:
        raise RuntimeError("ZHANG^WEI")

    replace(house, "/", fail)
    answer = house.visit(Role.VIEWER).get("/", headers=accept)
    assert answer.status_code == 500
    assert "ZHANG" not in answer.text
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    told = "".join(capfd.readouterr())
    assert "request ended by an error" in told
    assert "test_web_faults.py:" in told  # where it happened
    assert "ZHANG" not in told


def replace(house: House, path: str, handler: object) -> None:
    """Let another handler answer a path; the gate stays before it."""
    routes = house.app.router.routes
    place = next(n for n, route in enumerate(routes) if getattr(route, "path", None) == path)
    routes[place] = Route(path, handler)  # type: ignore[arg-type]
