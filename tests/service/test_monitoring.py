"""What monitors read: /metrics as Prometheus parses it, /health as an orchestrator uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from starlette.testclient import TestClient

from service import metrics
from service.queue.jobs import Jobs
from service.retention import Removed
from service.sending.confirmation import Confirmations
from service.settings import Limits, WebSettings
from service.tables import ResultObject, State
from service.web.app import create_app
from service.web.credentials import Credentials
from tests.service.installation import SECRETS, Installation
from tests.service.test_retention import Films

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.jobs.engine.dispose()


def client(installation: Installation, **limits: int) -> TestClient:
    web = WebSettings(password_hash=HASH, secret_key="s" * 40)
    settings = installation.settings.model_copy(update={"web": web, "limits": Limits(**limits)})
    app = create_app(settings, installation.jobs, Credentials.open(settings))
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))  # where a monitor needs no token


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_metrics_say_what_the_database_holds(installation: Installation) -> None:
    installation.confirm()
    installation.deliver(refused=True)
    installation.receive(byte_count=1000)
    installation.quarantine("no-study-uid", "none")
    installation.quarantine("no-study-uid", "none")
    installation.jobs.beat("worker inference 4712")
    installation.clock.pass_by(30)
    answer = client(installation).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.text)
    assert found["carpus_database_up", ()] == 1
    assert found["carpus_jobs", (("state", "CONFIRMED"),)] == 1
    assert found["carpus_jobs", (("state", "FAILED"),)] == 1
    assert found["carpus_jobs", (("state", "PREPARED"),)] == 0
    assert found["carpus_job_oldest_seconds", (("state", "RECEIVED"),)] == pytest.approx(30.6)
    assert found["carpus_backlog", ()] == 1
    assert found["carpus_instances_received_total", ()] == 3
    assert found["carpus_received_bytes_total", ()] == 2 * 6_151_424 + 1000
    assert found["carpus_quarantined_total", (("code", "no-study-uid"),)] == 2
    assert found["carpus_result_objects", (("destination", "archive"), ("kind", "SEG"), ("state", "refused"))] == 1
    assert found["carpus_store_responses", (("destination", "archive"), ("status", "0xA900"))] == 1
    assert found["carpus_store_responses", (("destination", "archive"), ("status", "0x0000"))] == 7
    assert found["carpus_heartbeat_age_seconds", (("process", "worker inference"),)] == 30
    store = (("store", "deidentified"),)
    assert 0 < found["carpus_disk_free_bytes", store] < found["carpus_disk_size_bytes", store]


def test_step_durations_form_a_cumulative_histogram(installation: Installation) -> None:
    job_id = installation.receive()
    for milliseconds in (4, 40, 400, 4000):
        installation.jobs.note(job_id, "grade", "", milliseconds)
    found = samples(client(installation).get("/metrics").text)
    buckets = {
        labels[0][1]: value
        for (name, labels), value in found.items()
        if name == "carpus_step_seconds_bucket" and labels[1] == ("step", "grade")
    }
    # 4 ms is within 0.01 s, 40 ms within 0.05 s, 400 ms within 0.5 s, 4 s within 5 s
    assert [buckets[limit] for limit in ("0.01", "0.05", "0.25", "0.5", "2.5", "5.0", "+Inf")] == [1, 2, 2, 3, 3, 4, 4]
    assert found["carpus_step_seconds_sum", (("step", "grade"),)] == pytest.approx(4.444)


def test_the_disk_where_films_are_received_is_told_by_who_receives(installation: Installation) -> None:
    # In containers the page has no mount of the identified store, and that disk decides whether films are refused.
    free = ("carpus_disk_free_bytes", (("store", "identified"),))
    size = ("carpus_disk_size_bytes", (("store", "identified"),))
    told = {"disk_free_bytes": {"identified": 4_000_000_000}, "refusing": []}
    installation.jobs.beat("scp", told | {"disk_size_bytes": {"identified": 16_000_000_000}})
    page = samples(client(installation).get("/metrics").text)
    assert (page[free], page[size]) == (4e9, 16e9)
    installation.jobs.beat("scp", told)  # by a receiver of an earlier version
    page = samples(client(installation).get("/metrics").text)
    assert (page[free], size in page) == (4e9, False)
    installation.clock.pass_by(61)
    assert free not in samples(client(installation).get("/metrics").text)


def test_metrics_and_health_hold_no_identifier(installation: Installation) -> None:
    job_id = installation.confirm()
    instance = installation.jobs.instance(installation.jobs.get(job_id).instance_id)
    page = client(installation).get("/metrics").text + client(installation).get("/health/ready").text
    assert [word for word in (*SECRETS, instance.SOPInstanceUID, instance.StudyInstanceUID) if word in page] == []


def test_ready_says_what_is_missing(installation: Installation) -> None:
    def answer(**limits: int) -> tuple[int, dict[str, bool]]:
        got = client(installation, **limits).get("/health/ready")
        return got.status_code, {check["name"]: check["ok"] for check in got.json()["checks"]}

    assert answer() == (503, {"database": True, "processes": False, "disk": True})
    for process in ("scp", "intake", "worker inference 1", "worker inference 2", "worker delivery", "web"):
        installation.jobs.beat(process)
    everything = dict.fromkeys(("database", *metrics.PROCESSES, "disk"), True)
    assert answer() == (200, everything)
    assert answer(minimum_free_disk_bytes=1 << 60) == (503, everything | {"disk": False})
    installation.clock.pass_by(61)
    installation.jobs.beat("worker inference 2")  # one of two lives: inference goes on
    assert answer() == (
        503,
        dict.fromkeys(everything, False) | dict.fromkeys(("database", "worker inference", "disk"), True),
    )
    installation.clock.pass_by(90_000)
    assert answer() == (503, {"database": True, "processes": False, "disk": True})
    installation.jobs.beat("scp")
    assert answer() == (200, {"database": True, "scp": True, "disk": True})


def test_a_process_that_never_came_is_missed_by_name(installation: Installation) -> None:
    def told() -> tuple[int, list[str], dict[str, float]]:
        visitor = client(installation)
        ready, page = visitor.get("/health/ready"), samples(visitor.get("/metrics").text)
        missed = [each["text"] for each in ready.json()["checks"] if each["name"] == "processes"]
        up = {labels[0][1]: value for (name, labels), value in page.items() if name == "carpus_process_up"}
        assert not [
            labels for (name, labels) in page if name == "carpus_heartbeat_age_seconds" and not up[labels[0][1]]
        ]
        return ready.status_code, missed, up

    status, (missed,), up = told()
    assert (status, up) == (503, dict.fromkeys(metrics.PROCESSES, 0))
    assert missed.startswith("never seen: scp, intake, worker inference, worker delivery, web; ")
    for process in ("scp", "intake", "worker delivery", "web"):  # as where no container with a GPU starts
        installation.jobs.beat(process)
    status, (missed,), up = told()
    assert (status, up) == (503, dict.fromkeys(metrics.PROCESSES, 1) | {"worker inference": 0})
    assert missed.startswith("never seen: worker inference; ")
    installation.jobs.beat("worker inference")
    assert told() == (200, [], dict.fromkeys(metrics.PROCESSES, 1))


def test_without_a_database_the_service_is_alive_not_ready_and_says_why(installation: Installation) -> None:
    with installation.jobs.engine.execution_options(write=True).begin() as connection:
        for table in ("job_events", "result_objects", "jobs"):
            connection.execute(text(f"DROP TABLE {table}"))
    visitor = client(installation)
    assert visitor.get("/health/live").text == "ok"
    ready = visitor.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"][0]["text"].startswith("does not answer")
    found = samples(visitor.get("/metrics").text)
    assert found["carpus_database_up", ()] == 0
    assert found["carpus_disk_free_bytes", (("store", "results"),)] > 0


def test_the_web_gives_signs_of_life_while_it_runs(installation: Installation) -> None:
    with client(installation) as running:
        running.get("/health/live")
        assert [(beat.process, beat.detail) for beat in installation.jobs.processes()] == [("web", None)]
    assert [(beat.process, beat.detail) for beat in installation.jobs.processes()] == [("web", {"stopped": True})]


def test_a_process_that_ended_in_order_is_told_at_once_and_is_missed_when_nothing_takes_its_place(
    installation: Installation,
) -> None:
    def told() -> tuple[int, dict[str, object], float, float]:
        visitor = client(installation)
        page, ready = samples(visitor.get("/metrics").text), visitor.get("/health/ready")
        (check,) = [each for each in ready.json()["checks"] if each["name"] == "worker inference"]
        labels = (("process", "worker inference"),)
        return ready.status_code, check, page["carpus_process_up", labels], page["carpus_heartbeat_age_seconds", labels]

    installation.jobs.beat("scp", {"disk_free_bytes": {"identified": 4_000_000_000}})
    for process in ("intake", "worker delivery", "web"):
        installation.jobs.beat(process)
    installation.jobs.beat("worker inference", {"canary_seconds": 3.0, "busy": 0})
    installation.jobs.beat("worker inference 2", {"canary_seconds": 3.0, "busy": 0})
    installation.clock.pass_by(20)
    installation.jobs.sign_off("worker inference")
    status, check, up, age = told()
    assert (status, check["ok"], up, age) == (200, True, 1, 20)  # the other one stands for its kind
    installation.jobs.sign_off("worker inference 2")
    installation.clock.pass_by(12)
    status, check, up, age = told()
    assert (status, check["text"], up, age) == (200, "stopped 12 s ago", 0, 12)  # as while one is replaced
    page = client(installation).get("/metrics").text
    assert "carpus_canary_age_seconds{" not in page  # CarpusWorkerStalled is of one that is alive
    installation.jobs.sign_off("scp")
    assert 'store="identified"' not in client(installation).get("/metrics").text  # nobody tells of that disk now
    installation.clock.pass_by(49)
    status, check, up, age = told()
    assert (status, check["ok"], check["text"], up, age) == (503, False, "stopped 1 min ago", 0, 61)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("scp", "scp"), ("worker inference 4711", "worker inference"), ("intake-7", "intake"), ("42", "42")],
)
def test_processes_are_counted_by_kind(name: str, kind: str) -> None:
    assert metrics.kind_of_process(name) == kind


def test_two_processes_read_the_same_figures(installation: Installation) -> None:
    installation.receive()
    other = Jobs(installation.jobs.engine, process="other", clock=installation.clock)
    pages = {metrics.text(metrics.registry(jobs, (installation.store,))) for jobs in (installation.jobs, other)}
    assert len({page.split(b"carpus_disk")[0] for page in pages}) == 1


def test_counters_keep_what_they_counted_of_films_that_retention_removed(tmp_path: Path) -> None:
    # Prometheus takes a counter that falls for one that began anew: one film removed of a thousand would be 999 new ones.
    films = Films(tmp_path, films_days=30, quarantine_days=90)
    made = films.installation
    own = metrics.registry(made.jobs, (made.store,))
    _resend(made, films.film(made.confirm()))
    films.film(made.confirm())
    made.quarantine("no-study-uid", "none")
    made.clock.pass_by(600)
    before = _counters(own)
    assert before["carpus_instances_received_total", ()] == 2
    assert before["carpus_objects_not_kept_total", (("destination", "archive"),)] == 4
    made.clock.pass_by(100 * 86_400)
    assert films.retention.round() == Removed(instances=2, quarantined=1)
    assert not made.jobs.counts()[State.CONFIRMED]
    assert _counters(own) == before
    assert _counters(metrics.registry(made.jobs, (made.store,))) == before  # as after a restart
    made.confirm()
    after = _counters(own)
    assert after["carpus_instances_received_total", ()] == 3
    assert after["carpus_received_bytes_total", ()] == 3 * 6_151_424
    assert after["carpus_step_seconds_count", (("step", "inferred"),)] == 3
    made.jobs.engine.dispose()


def _resend(made: Installation, job_id: int) -> None:
    with made.jobs.engine.begin() as connection:
        connection.execute(update(ResultObject).where(ResultObject.job_id == job_id).values(resends=1))


def _counters(own: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    suffixes = ("_total", "_bucket", "_sum", "_count")
    return {key: value for key, value in samples(metrics.text(own).decode()).items() if key[0].endswith(suffixes)}


def test_a_commitment_request_stays_counted_as_asked_when_its_report_has_come(installation: Installation) -> None:
    record = Confirmations(installation.jobs.engine, required=["archive"], maximum_resends=3, clock=installation.clock)
    transaction_uid = record.ask("archive", [], installation.clock())
    asked = (("role", "requestor"), ("state", "asked"))
    own = metrics.registry(installation.jobs, (installation.store,))
    assert _counters(own)["carpus_commitments_total", asked] == 1
    record.withdraw(transaction_uid, "refused")
    found = _counters(own)
    assert found["carpus_commitments_total", asked] == 1
    assert found["carpus_commitments_total", (("role", "requestor"), ("state", "refused"))] == 1
