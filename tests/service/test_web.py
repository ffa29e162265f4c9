"""The admin page through HTTP: who gets in, what is shown, and what is never shown."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from PIL import Image as Picture
from sqlalchemy import text as sql
from starlette.testclient import TestClient

from models.reading import Reason, Verdict
from service.errors import InvalidConfiguration
from service.queue.jobs import State
from service.settings import WebSettings
from service.trust.accounts import LOCK, Accounts
from service.web import guard, sessions
from service.web.app import create_app
from service.web.credentials import Credentials
from service.web.sessions import Sessions
from tests.service import readings
from tests.service.installation import BEGAN, SECRETS, Installation

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)  # a real argon2 hash, quick to check
HASH = CHEAP.hash(PASSWORD)
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Ticks:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    made.settings = made.settings.model_copy(update={"web": WebSettings(password_hash=HASH, secret_key="s" * 40)})
    yield made
    made.jobs.engine.dispose()


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def visitor(installation: Installation, ticks: Ticks) -> TestClient:
    credentials = Credentials.open(installation.settings)
    sessions_by_ticks = Sessions(credentials.secret_key, ticks)
    app = create_app(installation.settings, installation.jobs, credentials, sessions=sessions_by_ticks)
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def admin(visitor: TestClient) -> TestClient:
    assert log_in(visitor) == 303
    return visitor


def token(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def log_in(client: TestClient, user: str = "admin", password: str = PASSWORD, **fields: str) -> int:
    form = {"user": user, "password": password, "csrf": token(client.get("/login").text)} | fields
    return client.post("/login", data=form).status_code


# -- who gets in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/films/live", "/films/1", "/films/1/overlay.png", "/quarantine", "/system"])
def test_nobody_sees_a_page_without_a_session(visitor: TestClient, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")
    assert visitor.get(path, headers={"X-Refresh": "1"}).status_code == 401


@pytest.mark.parametrize("path", ["/films/1/retry", "/films/1/cancel", "/logout"])
def test_nobody_acts_without_a_session(visitor: TestClient, installation: Installation, path: str) -> None:
    job_id = installation.receive()
    assert visitor.post(path, data={"csrf": "x"}).status_code == 401
    assert installation.jobs.get(job_id).state == State.RECEIVED


def test_the_right_password_opens_and_leads_to_the_page_asked_for(visitor: TestClient) -> None:
    page = visitor.get("/login?next=/system").text
    answer = visitor.post(
        "/login", data={"user": "admin", "password": PASSWORD, "csrf": token(page), "next": "/system"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/system")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert visitor.get("/system").status_code == 200


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/login", "x\r\ny"])
def test_the_log_in_never_leads_away(target: str) -> None:
    assert guard.safe_path(target) == "/"


def test_a_wrong_name_or_password_is_refused_alike(visitor: TestClient) -> None:
    answers = set()
    for user, password in [("admin", "wrong"), ("nobody", PASSWORD)]:
        form = {"user": user, "password": password, "csrf": token(visitor.get("/login").text)}
        answer = visitor.post("/login", data=form)
        answers.add((answer.status_code, re.search(r'role="alert">([^<]+)', answer.text)[1]))
    assert answers == {(401, "Name or password is wrong.")}


def test_five_wrong_passwords_lock_even_the_right_one_out_for_a_quarter_of_an_hour(
    visitor: TestClient, installation: Installation
) -> None:
    assert [log_in(visitor, password="wrong") for _ in range(5)] == [401] * 5
    assert log_in(visitor) == 429
    installation.clock.pass_by(LOCK.total_seconds() - 1)
    assert log_in(visitor) == 429
    again = create_app(installation.settings, installation.jobs, Credentials.open(installation.settings))
    assert log_in(TestClient(again, follow_redirects=False)) == 429  # a restart gives no fresh tries
    installation.clock.pass_by(2)
    assert log_in(visitor) == 303


def test_a_log_in_form_of_another_site_is_refused(visitor: TestClient) -> None:
    foreign = Sessions("another key of forty characters ........").login_token()
    assert log_in(visitor, csrf=foreign) == 403
    visitor.cookies.clear()
    own = token(visitor.get("/login").text)
    visitor.cookies.clear()
    assert visitor.post("/login", data={"user": "admin", "password": PASSWORD, "csrf": own}).status_code == 403


def test_a_session_ends_when_idle_when_old_and_when_logged_out(visitor: TestClient, ticks: Ticks) -> None:
    log_in(visitor)
    ticks.now += sessions.IDLE_SECONDS - 1
    assert visitor.get("/").status_code == 200
    ticks.now += sessions.IDLE_SECONDS - 1
    # A page that refreshes itself is no sign of a person.
    assert visitor.get("/films/live", headers={"X-Refresh": "1"}).status_code == 200
    ticks.now += 2
    assert visitor.get("/").status_code == 303
    log_in(visitor)
    for _ in range(sessions.LONGEST_SECONDS // 1800 - 1):
        ticks.now += 1800
        assert visitor.get("/").status_code == 200
    ticks.now += 1800
    assert visitor.get("/").status_code == 303


def test_a_cookie_replayed_after_the_log_out_opens_nothing(admin: TestClient) -> None:
    cookie = admin.cookies[guard.COOKIE]
    assert admin.post("/logout", data={"csrf": token(admin.get("/").text)}).status_code == 303
    admin.cookies.set(guard.COOKIE, cookie)
    assert admin.get("/").status_code == 303


def test_who_logs_in_anew_ends_the_session_of_this_browser(admin: TestClient) -> None:
    before = admin.cookies[guard.COOKIE]
    assert log_in(admin) == 303
    assert admin.get("/").status_code == 200
    admin.cookies.clear()
    admin.cookies.set(guard.COOKIE, before)
    assert admin.get("/").status_code == 303


def test_a_cookie_taken_to_another_browser_opens_nothing_and_ends_the_session(admin: TestClient) -> None:
    assert admin.get("/").status_code == 200
    assert admin.get("/", headers={"User-Agent": "somebody else's"}).status_code == 303
    assert admin.get("/").status_code == 303


def test_a_forged_cookie_opens_nothing(visitor: TestClient) -> None:
    for forged in (
        "x",
        "x.y.z",
        Sessions("another key of forty characters ........").begin("admin", BEGAN, "testclient")[1],
    ):
        visitor.cookies.set(guard.COOKIE, forged)
        assert visitor.get("/").status_code == 303


@pytest.mark.parametrize("csrf", ["", "x", "é"])
def test_an_action_without_the_token_of_the_session_changes_nothing(
    admin: TestClient, installation: Installation, csrf: str
) -> None:
    job_id = installation.receive()
    assert admin.post(f"/films/{job_id}/cancel", data={"csrf": csrf}).status_code == 403
    assert installation.jobs.get(job_id).state == State.RECEIVED
    assert admin.post("/logout", data={"csrf": csrf}).status_code == 403
    assert admin.get("/").status_code == 200


def test_a_body_that_no_form_needs_is_refused(visitor: TestClient) -> None:
    assert visitor.post("/login", data={"user": "x" * 20_000}).status_code == 413


@pytest.mark.parametrize("path", ["/login", "/", "/static/carpus.css", "/health/live", "/nowhere"])
def test_every_answer_carries_the_security_headers(admin: TestClient, path: str) -> None:
    headers = admin.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert ("no-store" in headers.get("cache-control", "")) == (not path.startswith("/static/"))


def test_behind_tls_cookies_are_secure(installation: Installation) -> None:
    web = WebSettings(password_hash=HASH, secret_key="s" * 40, secure_cookies=True)
    settings = installation.settings.model_copy(update={"web": web})
    app = create_app(settings, installation.jobs, Credentials.open(settings))
    client = TestClient(app, base_url="https://testserver", follow_redirects=False)
    assert log_in(client) == 303
    answer = client.get("/login")
    # RFC 6265bis 4.1.3.2: by this name a browser takes them over TLS and from this host alone, with Path=/ and no Domain.
    assert set(client.cookies) == {"__Host-carpus_session", "__Host-carpus_login"}
    for name, value, *attributes in (re.split("=|; ", line) for line in answer.headers.get_list("set-cookie")):
        assert name == "__Host-carpus_login"
        assert value
        assert {"Secure", "HttpOnly", "Path"} <= set(attributes)
        assert "Domain" not in attributes
    assert "strict-transport-security" in answer.headers


def test_behind_tls_a_cookie_of_a_neighbour_in_the_domain_is_not_asked(installation: Installation) -> None:
    web = WebSettings(password_hash=HASH, secret_key="s" * 40, secure_cookies=True)
    settings = installation.settings.model_copy(update={"web": web})
    app = create_app(settings, installation.jobs, Credentials.open(settings))
    attacker, victim = (TestClient(app, base_url="https://testserver", follow_redirects=False) for _ in range(2))
    assert log_in(attacker) == 303
    victim.cookies.set("carpus_session", next(iter(attacker.cookies.values())))
    assert victim.get("/").status_code == 303
    left = attacker.post("/logout", data={"csrf": token(attacker.get("/").text)})
    # A browser removes a cookie of this name only where it might set it.
    assert "Secure" in left.headers["set-cookie"]
    assert "carpus_session" not in "".join(attacker.cookies)


def test_a_first_password_is_made_once_and_works(installation: Installation, tmp_path: Path) -> None:
    settings = installation.settings.model_copy(update={"web": WebSettings()})
    first, again = (create_app(settings, installation.jobs, Credentials.open(settings)).state for _ in range(2))
    assert first.first_password is not None
    assert again.first_password is None
    accounts = Accounts(installation.jobs.engine)
    assert accounts.admitted("admin", first.first_password)
    assert not accounts.admitted("admin", "wrong")
    assert not accounts.admitted("root", first.first_password)
    kept = tmp_path / "web"
    assert {p.name: p.stat().st_mode & 0o777 for p in kept.iterdir()} == {
        "secret_key": 0o600,
        "first-password.txt": 0o600,
    }
    assert (kept / "first-password.txt").read_text().strip() == first.first_password


def test_the_hash_of_the_settings_holds_at_every_start(installation: Installation) -> None:
    def start(**web: str) -> Accounts:
        settings = installation.settings.model_copy(update={"web": WebSettings(secret_key="s" * 40, **web)})
        create_app(settings, installation.jobs, Credentials.open(settings))
        return Accounts(installation.jobs.engine)

    assert start(password_hash=HASH).admitted("admin", PASSWORD)
    start().set_password("admin", "another long password")
    assert start().admitted("admin", "another long password")
    assert start(password_hash=HASH).admitted("admin", PASSWORD)
    with pytest.raises(InvalidConfiguration, match="not an argon2 hash"):
        start(password_hash="plain")


# -- what is shown --------------------------------------------------------------------------------------------------------


def test_the_list_shows_state_cause_and_next_action(admin: TestClient, installation: Installation) -> None:
    read = installation.confirm()
    failed = installation.deliver(refused=True, peer="DX_ROOM_2")
    rejected = installation.reject()
    page = admin.get("/").text
    for job_id in (read, failed, rejected):
        assert f">#{job_id}</a>" in page
    assert "10.5 y" in page
    assert "4/4 confirmed" in page
    assert "1 refused" in page
    assert "give archive a profile without SEG" in page
    assert "No hand was found on this film." in page
    assert "For research, not for clinical use" in page


def numbers(page: str) -> list[int]:
    return [int(n) for n in re.findall(r">#(\d+)</a>", page)]


def test_filter_and_search_choose_films(admin: TestClient, installation: Installation) -> None:
    one, other = installation.confirm(), installation.receive(peer="DX_ROOM_2")
    held = installation.wait_for_retry("peer-unreachable", "no answer 100%", "start it")
    uid = installation.jobs.instance(installation.jobs.get(one).instance_id).StudyInstanceUID
    asked = {
        "": [held, other, one],
        "?state=CONFIRMED": [one],
        "?state=FAILED": [],
        "?state=NONSENSE": [held, other, one],
        "?q=room": [other],
        "?q=%00room": [other],
        f"?q=%E2%80%AE%23{other}%E2%80%AC": [other],  # as pasted from a text written from right to left
        "?q=unreach": [held],
        f"?q=%23{other}": [other],
        f"?q={uid}": [one],
        "?q=_ROO%25": [],  # wildcards are letters like any other
        "?q=100%25": [held],
        "?state=CONFIRMED&q=room": [],
    }
    assert {query: numbers(admin.get(f"/{query}").text) for query in asked} == asked
    assert numbers(admin.get("/films/live?q=room").text) == [other]


def test_a_long_list_goes_on_on_a_second_page(admin: TestClient, installation: Installation) -> None:
    made = [installation.receive() for _ in range(53)]
    first = admin.get("/")
    assert numbers(first.text) == made[:2:-1]
    older = re.search(r'href="(/\?before=\d+)">Older', first.text)[1]
    assert numbers(admin.get(older).text) == made[2::-1]


def test_no_page_shows_who_the_patient_is(admin: TestClient, installation: Installation) -> None:
    job_id = installation.confirm()
    installation.quarantine("no-study-uid", "The data set has no StudyInstanceUID.")
    instance = installation.jobs.instance(installation.jobs.get(job_id).instance_id)
    secrets = (*SECRETS, instance.StudyInstanceUID, instance.SOPInstanceUID, instance.SeriesInstanceUID)
    for path in ("/", f"/films/{job_id}", "/quarantine", "/system", "/metrics", "/health/ready"):
        text = admin.get(path).text
        assert [secret for secret in secrets if secret in text] == [], path


def test_the_page_of_a_film_shows_methods_stages_objects_and_timeline(
    admin: TestClient, installation: Installation
) -> None:
    page = admin.get(f"/films/{installation.confirm(readings.reading(alarm=True))}").text
    for text in ("RUS-CHN", "TW3-C RUS", "10 y 6 mo", "9.8–11.3", "the bundle holds no weights for this method"):
        assert text in page
    assert page.count('class="letter') == 13
    assert "The methods disagree" in page
    assert page.count("0x0000") == 4
    assert [code for code in re.findall(r'class="code">([^<]+)', page) if code.isalpha()] == [
        *("received", "prepared", "detect", "segment", "grade", "regress", "inferred", "delivered", "confirmed")
    ]


def test_a_film_that_was_not_read_says_why_once(admin: TestClient, installation: Installation) -> None:
    cause = {"cause_code": "not-a-hand", "cause_text": "no hand was seen", "next_action": "Send hands only."}
    page = admin.get(f"/films/{installation.reject('not-a-hand', 'no hand was seen', **cause)}").text
    boxes = re.findall(r'class="alert.*?</div>', page, re.DOTALL)
    assert len(boxes) == 1
    assert "no hand was seen" in boxes[0]
    assert "Send hands only." in boxes[0]


def test_a_film_whose_sex_is_unknown_shows_both_curves(admin: TestClient, installation: Installation) -> None:
    job_id = installation.infer(readings.reading(sex=None))
    page = admin.get(f"/films/{job_id}").text
    assert "girls" in page
    assert "boys" in page
    assert "10.5 y / 10.5 y" in admin.get("/").text


def test_the_overlay_is_a_picture_of_the_film(admin: TestClient, installation: Installation) -> None:
    answer = admin.get(f"/films/{installation.infer()}/overlay.png")
    assert answer.headers["content-type"] == "image/png"
    picture = Picture.open(BytesIO(answer.content))
    assert picture.size[0] / picture.size[1] == pytest.approx(readings.COLUMNS / readings.ROWS, rel=0.01)
    assert len(picture.getcolors(1 << 20)) > 20


def test_a_film_that_was_not_read_has_no_overlay_and_says_so(admin: TestClient, installation: Installation) -> None:
    job_id = installation.reject()
    assert admin.get(f"/films/{job_id}/overlay.png").status_code == 404
    assert "This film was not read." in admin.get(f"/films/{job_id}").text


def test_a_copy_that_is_gone_is_said_not_guessed(admin: TestClient, installation: Installation) -> None:
    job_id = installation.infer()
    installation.store.remove(installation.jobs.get(job_id).deidentified_name)
    answer = admin.get(f"/films/{job_id}/overlay.png")
    assert answer.status_code == 404
    assert "cannot be drawn" in answer.text


def test_the_preview_shows_what_a_pacs_gets_with_a_profile(admin: TestClient, installation: Installation) -> None:
    job_id = installation.infer()
    page = admin.get(f"/films/{job_id}/preview").text
    assert "has default" in page  # the profile each destination has now
    assert [label for label in ("Bone age report", "Bone age overview", "Bone age regions") if label not in page] == []
    chinese = admin.get(f"/films/{job_id}/preview?profile=everything-zh").text
    assert "骨龄报告（PDF）" in chinese
    for kind, media_type, begins in (
        ("SC.png", "image/png", b"\x89PNG"),
        ("SR.html", "text/html; charset=utf-8", b"<!doctype html>"),
        ("PDF.pdf", "application/pdf", b"%PDF"),
    ):
        answer = admin.get(f"/films/{job_id}/preview/{kind}?profile=everything-zh")
        assert answer.headers["content-type"] == media_type
        assert answer.content.startswith(begins)
        assert not [secret for secret in SECRETS if secret.encode() in answer.content]
        if kind == "SR.html":
            assert "骨龄" in answer.text
            assert "script" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["SC.png?profile=unheard-of", "GSPS.dcm", "PDF.pdf?profile=report%00"])
def test_a_preview_that_cannot_be_is_not_found(admin: TestClient, installation: Installation, path: str) -> None:
    assert admin.get(f"/films/{installation.infer()}/preview/{path}").status_code == 404


def test_no_preview_of_a_film_whose_copy_is_gone(admin: TestClient, installation: Installation) -> None:
    job_id = installation.infer()
    installation.store.remove(installation.jobs.get(job_id).deidentified_name)
    answer = admin.get(f"/films/{job_id}/preview/SC.png")
    assert answer.status_code == 404
    assert "not kept any more" in answer.text
    assert admin.get(f"/films/{installation.reject()}/preview/SC.png").status_code == 404


def test_a_reading_of_another_version_is_said_to_be_one(admin: TestClient, installation: Installation) -> None:
    job_id = installation.infer()
    with installation.jobs.engine.execution_options(write=True).begin() as connection:
        connection.execute(sql("UPDATE jobs SET reading = :reading"), {"reading": '{"image": {}, "novelty": 1}'})
    assert "another version" in admin.get(f"/films/{job_id}").text
    assert numbers(admin.get("/").text) == [job_id]
    assert admin.get("/system").status_code == 200
    assert admin.get(f"/films/{job_id}/overlay.png").status_code == 404


def test_without_a_database_the_pages_say_so(admin: TestClient, installation: Installation) -> None:
    with installation.jobs.engine.execution_options(write=True).begin() as connection:
        for table in ("job_events", "result_objects", "jobs"):
            connection.execute(sql(f"DROP TABLE {table}"))
    answer = admin.get("/")
    assert answer.status_code == 503
    assert "The database does not answer." in answer.text


@pytest.mark.parametrize("path", ["/films/999", "/films/2147483648", "/films/99999999999999999999", "/nowhere"])
def test_what_does_not_exist_is_a_page_that_says_so(admin: TestClient, path: str) -> None:
    answer = admin.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "<title>Not found · Carpus</title>" in answer.text


def test_hostile_texts_are_shown_as_text(admin: TestClient, installation: Installation) -> None:
    verdict = Verdict(True, (Reason(HOSTILE, HOSTILE),))
    read = installation.confirm(readings.reading(verdict=verdict), peer=HOSTILE)
    installation.wait_for_retry(HOSTILE, HOSTILE, HOSTILE)
    installation.quarantine(HOSTILE, HOSTILE, peer=HOSTILE)
    installation.reject(HOSTILE, HOSTILE)
    installation.jobs.beat(HOSTILE, {HOSTILE: HOSTILE})
    for path in ("/", f"/films/{read}", "/quarantine", "/system", f"/?q={HOSTILE}", "/login?next=" + HOSTILE):
        text = admin.get(path).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
    assert "&lt;script&gt;" in admin.get("/").text


# -- what can be done -----------------------------------------------------------------------------------------------------


def act(admin: TestClient, job_id: int, action: str) -> int:
    csrf = token(admin.get(f"/films/{job_id}").text)
    return admin.post(f"/films/{job_id}/{action}", data={"csrf": csrf}).status_code


def test_a_failed_film_can_be_retried_and_then_cancelled(admin: TestClient, installation: Installation) -> None:
    job_id = installation.deliver(refused=True)
    assert act(admin, job_id, "retry") == 303
    assert installation.jobs.get(job_id).state == State.INFERRED
    assert act(admin, job_id, "cancel") == 303
    assert installation.jobs.get(job_id).state == State.CANCELLED
    assert "cancelled by admin" in admin.get(f"/films/{job_id}?done=cancel").text


def test_a_finished_film_can_be_read_again(admin: TestClient, installation: Installation) -> None:
    job_id = installation.confirm()
    assert act(admin, job_id, "requeue") == 303
    newest = installation.jobs.list()[0]
    assert (newest.revision, newest.state) == (2, State.RECEIVED)


def test_an_action_the_state_does_not_allow_is_refused_with_its_reason(
    admin: TestClient, installation: Installation
) -> None:
    job_id = installation.confirm()
    csrf = token(admin.get("/").text)
    answer = admin.post(f"/films/{job_id}/cancel", data={"csrf": csrf})
    assert answer.status_code == 404
    assert "nothing to cancel" in answer.text
    assert admin.post(f"/films/{job_id}/explode", data={"csrf": csrf}).status_code == 404


def test_only_actions_the_state_allows_are_offered(admin: TestClient, installation: Installation) -> None:
    def offered(job_id: int) -> list[str]:
        return re.findall(r'action="/films/\d+/(\w+)"', admin.get(f"/films/{job_id}").text)

    assert offered(installation.receive()) == ["retry", "cancel"]
    assert offered(installation.confirm()) == ["requeue"]
    assert offered(installation.deliver(refused=True)) == ["retry", "cancel"]
