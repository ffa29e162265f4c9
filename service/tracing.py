"""Follow a film through the processes as one trace of OpenTelemetry; off unless a collector is named.

The span of a film's reception stands in its job's row (W3C Trace Context), and every later step is a child of it, in whatever
process and at whichever attempt. So a trace is whole although the broker may lose every message. Spans name jobs by number, peers
by AE title and failures by code; no text of an error and nothing of a patient is ever written into one.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

from service.errors import CarpusError, InvalidConfiguration, Postponed, installing
from service.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Tracer

Attributes = Mapping[str, str | int | float | bool]
PREFIX: Final = "carpus."  # of every attribute that the semantic conventions of OpenTelemetry have no name for
_PARENT: Final = "traceparent"

_tracer: "Tracer | None" = None


def configure(settings: TracingSettings, process: str, *, version: str = "") -> "TracerProvider | None":
    """Send the spans of this process to the collector that is named; without one, trace nothing and return None.

    Raises
    ------
    InvalidConfiguration
        When a collector is named and the packages are not installed.
    """
    if not settings.on:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidConfiguration(
            "tracing.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT names a collector, and the packages for it are not installed",
            next_action=f"{installing('tracing')}; or take the setting away",
        ) from error
    # What is not given here, the exporter takes from the OTEL_EXPORTER_OTLP_… variables.
    exporter = OTLPSpanExporter(endpoint=settings.traces_url or None, timeout=settings.timeout_seconds)
    return use(BatchSpanProcessor(exporter), process, version=version)


def use(processor: "SpanProcessor", process: str, *, version: str = "") -> "TracerProvider":
    """Hand the spans of this process to a processor from now on; the caller shuts down what is returned, or the process's end does."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    global _tracer
    own = {"service.name": f"carpus {process}", "service.namespace": "carpus", "service.version": version}
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES stand before what we say.
    provider = TracerProvider(resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("carpus", version)
    return provider


def stop() -> None:
    """Trace nothing more in this process."""
    global _tracer
    _tracer = None


def on() -> bool:
    """Whether anything is traced in this process."""
    return _tracer is not None


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: Literal["INTERNAL", "SERVER", "CLIENT", "CONSUMER"] = "INTERNAL",
    attributes: Attributes | None = None,
) -> Iterator[None]:
    """Trace the block; an error ends the span with its code as `error.type` and is raised on.

    Parameters
    ----------
    parent
        What `carried` returned for the film; None for a child of what this thread traces already, or else for a new trace.
    attributes
        By their names in OpenTelemetry, or by names of ours, which get the prefix `carpus.`.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind, StatusCode

    started = _tracer.start_as_current_span(
        name,
        context=_context(parent),
        kind=SpanKind[kind],
        attributes=_named(attributes or {}),
        # The text of an error may quote what was received.
        record_exception=False,
        set_status_on_exception=False,
    )
    with started as current:
        try:
            yield
        except Postponed as postponed:  # nothing went wrong: the step was not tried
            current.set_attribute(f"{PREFIX}postponed", postponed.code)
            raise
        except BaseException as error:
            code = error.code if isinstance(error, CarpusError) else type(error).__name__
            current.set_attribute("error.type", code)
            current.set_status(StatusCode.ERROR, code)
            raise


def record(
    name: str, *, parent: str | None, started: dt.datetime, ended: dt.datetime, attributes: Attributes | None = None
) -> None:
    """Add a span whose beginning lies back: a wait for somebody else that has just ended."""
    if _tracer is not None:
        begun = _tracer.start_span(
            name,
            context=_context(parent),
            start_time=_nanoseconds(started),
            attributes=_named(attributes or {}),
        )
        begun.end(_nanoseconds(ended))


def annotate(attributes: Attributes) -> None:
    """Say more about the span that this thread is in."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_named(attributes))


def event(name: str, attributes: Attributes) -> None:
    """Note a moment within the span that this thread is in."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().add_event(name, _named(attributes))


def carried() -> str | None:
    """Return the span that this thread is in, to be stored and given to `span` as a parent; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_PARENT)


def _context(parent: str | None) -> "Context | None":
    if parent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({_PARENT: parent}, Context())


def _named(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name if "." in name else f"{PREFIX}{name}": value for name, value in attributes.items()}


def _nanoseconds(at: dt.datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000
