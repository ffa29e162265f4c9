"""Measure what holds films up: held queues, destinations left alone, refused instances, workers whose messages do not come."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from service.queue.breakers import Breakers
from service.queue.jobs import Jobs
from service.queue.queues import Queues
from service.settings import BreakerSettings
from service.tables import BreakerState, QueueMode

HOLDS_SECONDS = 30.0  # how old a receiver's word may be


def families(jobs: Jobs) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Yield every metric of this kind; no label holds anything of a patient."""
    queues = Queues(jobs.engine, clock=jobs.now).all()
    waiting = GaugeMetricFamily("carpus_queue_waiting", "Jobs that wait in each queue.", labels=["queue"])
    busy = GaugeMetricFamily("carpus_queue_under_way", "Jobs worked on, by queue.", labels=["queue"])
    held = GaugeMetricFamily("carpus_queue_held", "1 while a person holds the queue, by how.", labels=["queue", "mode"])
    for queue in queues:
        waiting.add_metric([queue.name], queue.waiting)
        busy.add_metric([queue.name], queue.under_way)
        for mode in (QueueMode.PAUSED, QueueMode.DRAINING):
            held.add_metric([queue.name, mode], int(queue.mode == mode))
    yield from (waiting, busy, held)
    alone = GaugeMetricFamily(
        "carpus_breaker_open",
        "1 while nothing is sent to the destination because it kept failing.",
        labels=["destination"],
    )
    for row in Breakers(jobs, BreakerSettings()).all():
        alone.add_metric([row.destination], int(row.state != BreakerState.CLOSED))
    yield alone
    refused = CounterMetricFamily("carpus_refused", "Instances refused for now (0xA700), by cause.", labels=["code"])
    for each in jobs.refusals():
        refused.add_metric([each.code], each.count)
    yield refused
    yield from _told_by_processes(jobs)


def _told_by_processes(jobs: Jobs) -> Iterator[GaugeMetricFamily]:
    now = jobs.now()
    refusing = GaugeMetricFamily("carpus_refusing", "1 while instances are refused for this cause.", labels=["code"])
    canaries = GaugeMetricFamily(
        "carpus_canary_age_seconds",
        "Since the last message a worker sent to itself through the broker came back.",
        labels=["process"],
    )
    codes: set[str] = set()
    for beat in jobs.processes():
        detail, age = beat.detail or {}, (now - beat.at).total_seconds()
        if age <= HOLDS_SECONDS:
            codes.update(each["code"] for each in detail.get("refusing", []))
        if detail.get("canary_seconds") is not None:
            canaries.add_metric([beat.process], detail["canary_seconds"] + max(0.0, age))
    for code in sorted(codes):
        refusing.add_metric([code], 1)
    yield from (refusing, canaries)
