"""The page of the queues: what is held, left alone or refused, and the buttons that change it."""

import re

import pytest
from starlette.testclient import TestClient

from service.errors import Retryable
from service.queue.breakers import Breakers
from service.queue.queues import Queues
from service.settings import BreakerSettings
from service.tables import QueueMode
from tests.service.installation import Installation
from tests.service.test_web import admin, installation, ticks, token, visitor

__all__ = ["admin", "installation", "ticks", "visitor"]


def test_a_queue_is_paused_and_resumed_by_its_buttons(admin: TestClient, installation: Installation) -> None:
    queues = Queues(installation.jobs.engine, clock=installation.clock)
    page = admin.get("/queues").text
    assert re.findall(r'action="/queues/(\w+)/(\w+)"', page) == [
        (queue, action) for queue in ("intake", "inference", "delivery") for action in ("pause", "drain")
    ]
    said = {"csrf": token(page), "reason": "PACS upgrade until 14:00"}
    assert admin.post("/queues/inference/pause", data=said).status_code == 303
    assert queues.mode("inference") == QueueMode.PAUSED
    page = admin.get("/queues").text
    assert re.search(r"inference.*paused.*admin.*PACS upgrade until 14:00", page, re.IGNORECASE | re.DOTALL)
    assert admin.post("/queues/inference/resume", data={"csrf": token(page)}).status_code == 303
    assert queues.mode("inference") == QueueMode.RUNNING


def test_the_list_of_films_says_what_is_held_and_refused(admin: TestClient, installation: Installation) -> None:
    queues = Queues(installation.jobs.engine, clock=installation.clock)
    assert "is paused" not in admin.get("/").text
    queues.set("delivery", QueueMode.PAUSED, by="li", reason="<b>PACS upgrade</b>")
    backlog = {"code": "backlog", "text": "5000 instances wait", "next_action": "see whether the intake runs"}
    installation.jobs.beat("scp", {"refusing": [backlog]})
    for path in ("/", "/films/live"):  # what refreshes itself says it too
        page = admin.get(path).text
        assert "delivery is paused" in page
        assert "&lt;b&gt;PACS upgrade" in page
        assert 'href="/queues"' in page
        assert "films are refused for now" in page
        assert "see whether the intake runs" in page
    queues.set("delivery", QueueMode.RUNNING, by="li")
    assert "is paused" not in admin.get("/").text


@pytest.mark.parametrize("path", ["/queues/lunch/pause", "/queues/intake/delete"])
def test_an_unknown_queue_or_action_is_refused(admin: TestClient, path: str) -> None:
    assert admin.post(path, data={"csrf": token(admin.get("/queues").text)}).status_code == 404


def test_nobody_holds_a_queue_without_the_session_and_its_form(
    admin: TestClient, visitor: TestClient, installation: Installation
) -> None:
    assert admin.post("/queues/inference/pause", data={"csrf": "x"}).status_code == 403
    admin.cookies.clear()
    assert visitor.post("/queues/inference/pause", data={"csrf": "x"}).status_code == 401
    assert Queues(installation.jobs.engine).mode("inference") == QueueMode.RUNNING


def test_a_destination_left_alone_and_a_refusal_are_shown_with_what_to_do(
    admin: TestClient, installation: Installation
) -> None:
    jobs = installation.jobs
    name = installation.settings.destinations[0].name
    away = Retryable("archive does not answer", code="peer-unreachable", next_action="check that the PACS runs")
    Breakers(jobs, BreakerSettings(failures=1)).failed(name, away)
    jobs.count_refusals("backlog", "5000 instances wait to be prepared", "see whether the intake runs", 12)
    jobs.count_refusals("disk-full", "0 bytes free", "make room", 1)
    jobs.beat("scp", {"refusing": [{"code": "backlog", "text": "5000 instances wait", "next_action": "see"}]})
    page = admin.get("/queues").text
    to = installation.settings.destinations[0]
    for words in (
        f"<code>{to.ae_title}</code> at {to.host}:{to.port}",
        "left alone",
        "check that the PACS runs",
        "5000 instances wait to be prepared",
        "see whether the intake",
    ):
        assert words in page
    states = re.findall(r"<code>(backlog|disk-full)</code></td>\s*<td><span class=\"pill \w+\">(\w+)<", page)
    assert states == [("backlog", "holds"), ("disk-full", "over")]
    ready = admin.get("/health/ready").json()
    assert {
        "name": "reception: backlog",
        "ok": False,
        "text": "instances are refused for now: 5000 instances wait",
    } in ready["checks"]
    assert "refuses for now: backlog" in admin.get("/system").text
    metrics = admin.get("/metrics").text
    for line in (
        'carpus_refusing{code="backlog"} 1.0',
        'carpus_refused_total{code="backlog"} 12.0',
        f'carpus_breaker_open{{destination="{name}"}} 1.0',
        'carpus_queue_held{mode="paused",queue="inference"} 0.0',
    ):
        assert line in metrics


def test_a_worker_whose_messages_do_not_come_is_not_healthy(admin: TestClient, installation: Installation) -> None:
    def check(detail: dict[str, object]) -> list[bool]:
        installation.jobs.beat("worker inference", detail)
        found = admin.get("/health/ready").json()["checks"]
        return [each["ok"] for each in found if each["name"] == "messages to worker inference"]

    assert check({"canary_seconds": 5.0, "busy": 0}) == [True]
    assert check({"canary_seconds": 500.0, "busy": 0}) == [False]
    assert check({"canary_seconds": 500.0, "busy": 1}) == []  # it works; it cannot take a message now
    assert check({"canary_seconds": None, "busy": 0}) == []
    assert 'carpus_canary_age_seconds{process="worker inference"}' not in admin.get("/metrics").text
    check({"canary_seconds": 5.0, "busy": 0, "steps": 7})
    assert "idle, 7 steps done" in admin.get("/system").text
    assert 'carpus_canary_age_seconds{process="worker inference"} 5.0' in admin.get("/metrics").text


def test_the_system_page_says_of_a_process_that_ended_in_order_that_it_is_stopped(
    admin: TestClient, installation: Installation
) -> None:
    def row() -> str:
        return re.search(r"<tr>\s*<td>[^\n]*intake</td>.*?</tr>", admin.get("/system").text, re.DOTALL)[0]

    installation.jobs.beat("intake")
    assert 'class="dot good" title="alive"' in row()
    installation.jobs.sign_off("intake")
    assert 'class="dot off" title="stopped"' in row()
    assert '<td class="faint">stopped</td>' in row()
    installation.jobs.beat("intake")
    installation.clock.pass_by(61)
    assert 'class="dot bad" title="silent"' in row()


def test_a_film_is_found_by_its_accession_number_which_is_not_shown(
    admin: TestClient, installation: Installation
) -> None:
    from sqlalchemy import update

    from service.tables import Instance

    job_id = installation.receive()
    with installation.jobs._write() as session:
        session.execute(update(Instance).values(accession_number="ACC-4711"))
    page = admin.get("/", params={"q": "ACC-4711"}).text
    assert f'href="/films/{job_id}"' in page
    assert f'href="/films/{job_id}"' not in admin.get("/", params={"q": "ACC-471"}).text
    assert "ACC-4711" not in admin.get("/").text + admin.get(f"/films/{job_id}").text


def test_other_bytes_under_the_uid_of_a_film_raise_an_alert_with_both_hashes(
    admin: TestClient, installation: Installation
) -> None:
    kept, other = "a" * 64, "b" * 64
    text = f"film #1 is kept with SHA-256 {kept}; this data set has {other}"
    where = {"name": "ab/q.dcm", "SOPInstanceUID": "2.25.1", "calling_ae_title": "PACS", "address": "10.0.0.1"}
    installation.jobs.record_quarantine(code="same-uid-other-bytes", text=text, sha256=other, **where)
    page = admin.get("/").text
    for words in ("1 film in quarantine", kept, other, "ask the sender which one is right"):
        assert words in page
    installation.clock.pass_by(8 * 86_400)
    assert "in quarantine</strong>" not in admin.get("/").text


def test_the_film_that_a_quarantined_file_would_have_replaced_is_named_by_its_page(
    admin: TestClient, installation: Installation
) -> None:
    read_twice = installation.confirm()
    film = installation.jobs.requeue(read_twice)
    other = installation.jobs.instance(installation.jobs.get(installation.receive()).instance_id)
    where = {"name": "ab/q.dcm", "calling_ae_title": "PACS", "address": "10.0.0.1"}
    installation.jobs.record_quarantine(
        code="same-uid-other-bytes", text="other bytes", sha256="b" * 64, SOPInstanceUID=other.SOPInstanceUID, **where
    )
    installation.quarantine("no-study-uid", "The data set has no StudyInstanceUID.", sha256="c" * 64)
    kept = installation.jobs.find(other.SOPInstanceUID)[0].id
    assert kept not in (other.id, film)  # the number of the instance would lead to another film
    page = admin.get("/quarantine").text
    assert f'<a href="/films/{kept}">#{kept}</a>' in page
    assert page.count('href="/films/') == 1


def test_the_system_page_shows_the_disk_that_decides_whether_films_are_taken(
    admin: TestClient, installation: Installation
) -> None:
    assert "<td>identified</td>" not in admin.get("/system").text
    installation.jobs.beat("scp", {"disk_free_bytes": {"identified": 700_000_000, "deidentified": 1}})
    page = admin.get("/system").text
    row = re.search(r"<tr><td>identified</td>.*?</tr>", page, re.DOTALL)[0]
    assert re.search(r"\bbad\b.*>700.0 MB<.*>1\.1 GB<", row), row
    assert page.count("<td>deidentified</td>") == 1  # what this process sees itself stands before what others tell
    told = {"disk_free_bytes": {"identified": 700_000_000}, "disk_size_bytes": {"identified": 2_800_000_000}}
    installation.jobs.beat("scp", told)
    row = re.search(r"<tr><td>identified</td>.*?</tr>", admin.get("/system").text, re.DOTALL)[0]
    assert re.search(r"75 %.*>700.0 MB<.*>2\.8 GB<.*>1\.1 GB<", row), row
    installation.clock.pass_by(3600)
    assert "<td>identified</td>" not in admin.get("/system").text  # told by nobody now
