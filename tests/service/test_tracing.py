"""One trace a film, from the association to the proof that the PACS keeps its report; nothing of a patient in it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydicom import Dataset
from sqlalchemy import Engine

from service import tracing
from service.errors import InvalidConfiguration, Retryable
from service.queue.jobs import State
from service.queue.steps import Steps
from service.sending import requestor, scu
from service.settings import Settings, TracingSettings
from tests.collector import collecting
from tests.service.test_confirmer import Ward, wait_for
from tests.service.test_pipeline import hand

Spans = Callable[[], dict[str, list[ReadableSpan]]]


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = tracing.use(SimpleSpanProcessor(exporter), "test", version="1.2")

    def by_name() -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    yield by_name
    tracing.stop()
    provider.shutdown()


@pytest.fixture
def ward(tmp_path: Path, engine: Engine) -> Iterator[Ward]:
    with ExitStack() as stack:
        yield Ward(tmp_path, engine, stack, commits="same")


def receive(ward: Ward, film: Dataset) -> int:
    sent = scu.store(requestor.Address("CARPUS", "127.0.0.1", ward.listener.port), [film], calling_ae_title="PACS")
    assert sent[0].accepted
    return int(ward.jobs.find(film.SOPInstanceUID)[0].id)


def steps(ward: Ward) -> Steps:
    return Steps(ward.jobs, ward.house.pipeline, lambda *_: None, ward.settings)


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_film_is_one_trace_from_its_association_to_the_proof(ward: Ward, spans: Spans) -> None:
    job_id = receive(ward, hand())
    ward.house.clock.now = ward.jobs.get(job_id).state_since  # one clock for listener and steps
    steps(ward).prepare(job_id)
    steps(ward).infer(job_id)
    steps(ward).deliver(job_id)
    ward.round()
    wait_for(lambda: ward.state(job_id) == State.CONFIRMED)
    found = spans()
    (received,) = found["receive"]
    assert received.parent is None
    assert received.context is not None
    stages = [span for name in ("prepare", "infer", "deliver", "confirm") for span in found[name]]
    assert len(stages) == 4
    for span in stages:
        assert span.context is not None
        assert span.context.trace_id == received.context.trace_id
        assert span.parent is not None
        assert span.parent.span_id == received.context.span_id
        assert told(span)["carpus.job"] == job_id
        assert told(span)["carpus.attempt"] == 1
        assert span.status.status_code is StatusCode.UNSET
    assert told(received)["carpus.job"] == job_id
    assert told(received)["carpus.calling_ae_title"] == "PACS"
    assert [told(span).get("carpus.state") for span in stages] == ["PREPARED", "INFERRED", "DELIVERED", None]
    (sent,) = found["send"]
    (delivered,) = found["deliver"]
    assert sent.parent is not None
    assert delivered.context is not None
    assert sent.parent.span_id == delivered.context.span_id
    assert told(sent)["carpus.called_ae_title"] == "PACS"
    assert told(sent)["server.port"] == ward.pacs.port
    assert [event.attributes["carpus.status"] for event in sent.events] == ["0x0000"] * 4  # type: ignore[index]
    (confirmed,) = found["confirm"]
    assert told(confirmed)["carpus.called_ae_title"] == "PACS"
    assert (told(confirmed)["carpus.proof"], told(confirmed)["carpus.objects"]) == ("commitment", 4)
    assert sum(len(each) for each in found.values()) > 10  # the parts of each step stand below it


def test_a_failed_attempt_ends_with_its_code_and_the_next_one_is_in_the_same_trace(ward: Ward, spans: Spans) -> None:
    job_id = receive(ward, hand())
    steps(ward).prepare(job_id)
    steps(ward).infer(job_id)
    send = ward.house.pipeline.send

    def away(*_: Any, **__: Any) -> Any:
        raise Retryable("CHILD^TEST cannot be sent", code="peer-unreachable")

    object.__setattr__(ward.house.pipeline, "send", away)
    steps(ward).deliver(job_id)
    object.__setattr__(ward.house.pipeline, "send", send)
    ward.house.clock.pass_seconds(600)
    steps(ward).deliver(job_id)
    first, second = spans()["deliver"]
    assert first.context is not None
    assert second.context is not None
    assert first.context.trace_id == second.context.trace_id
    assert [told(span)["carpus.attempt"] for span in (first, second)] == [1, 2]
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert told(first)["error.type"] == first.status.description == "peer-unreachable"
    assert first.events == ()


def test_no_span_holds_anything_of_the_patient(ward: Ward, spans: Spans) -> None:
    film = hand()
    job_id = receive(ward, film)
    ward.house.reader.read = lambda *_: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    steps(ward).prepare(job_id)
    steps(ward).infer(job_id)
    written = "".join(span.to_json() for each in spans().values() for span in each)
    assert "ZeroDivisionError" in written
    assert "Traceback" not in written
    keywords = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    for value in ("CHILD", film.PatientBirthDate, *(film[keyword].value for keyword in keywords)):
        assert str(value) not in written


def test_a_film_read_once_more_stays_in_its_trace(ward: Ward, spans: Spans) -> None:
    job_id = receive(ward, hand())
    steps(ward).prepare(ward.jobs.requeue(job_id))
    (received,), (prepared,) = spans()["receive"], spans()["prepare"]
    assert received.context is not None
    assert prepared.context is not None
    assert prepared.context.trace_id == received.context.trace_id
    assert told(prepared)["carpus.revision"] == 2


def test_nothing_is_traced_and_nothing_of_opentelemetry_is_loaded_where_no_collector_is_named(ward: Ward) -> None:
    job_id = receive(ward, hand())
    assert ward.jobs.get(job_id).traceparent is None
    code = (
        "import sys; from service import tracing; from service.settings import TracingSettings\n"
        "tracing.configure(TracingSettings(), 'scp')\n"
        "with tracing.span('receive'): tracing.annotate({'job': 1})\n"
        "assert tracing.carried() is None; assert not [name for name in sys.modules if 'opentelemetry' in name]"
    )
    clean = {"PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean, timeout=60, cwd=Path(__file__).parents[2])


def test_the_spans_reach_a_collector_over_otlp() -> None:
    with collecting() as collector:
        settings = Settings(tracing={"endpoint": collector.url}).tracing  # type: ignore[arg-type]
        provider = tracing.configure(settings, "scp", version="1.2")
        assert provider is not None
        try:
            with tracing.span("receive", attributes={"job": 7}):
                pass
        finally:
            tracing.stop()
            provider.shutdown()
    assert collector.paths == {"/v1/traces"}
    (span,) = collector.spans
    assert (span["name"], span["service"], span["told"]) == ("receive", "carpus scp", {"carpus.job": 7})


def test_the_variables_of_opentelemetry_name_the_collector_and_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not TracingSettings().on
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "bone-age")
        provider = tracing.configure(TracingSettings(), "scp")
        assert provider is not None
        with tracing.span("receive"):
            pass
        tracing.stop()
        provider.shutdown()
    assert [span["service"] for span in collector.spans] == ["bone-age"]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not TracingSettings(endpoint=collector.url).on


def test_a_collector_that_is_away_holds_up_neither_the_work_nor_the_end() -> None:
    with collecting() as collector:
        pass
    provider = tracing.configure(TracingSettings(endpoint=collector.url, timeout_seconds=0.5), "scp")
    assert provider is not None
    started = time.monotonic()
    for _ in range(100):
        with tracing.span("receive"):
            pass
    assert time.monotonic() - started < 1
    tracing.stop()
    provider.shutdown()
    assert time.monotonic() - started < 10


def test_a_named_collector_without_the_packages_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidConfiguration) as refused:
        tracing.configure(TracingSettings(endpoint="http://127.0.0.1:4318"), "scp")
    assert "pip install --constraint constraints.txt '.[tracing]'" in refused.value.next_action
