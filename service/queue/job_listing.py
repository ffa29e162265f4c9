"""Show jobs to the administrator on a terminal, or as JSON to a script: state, age, cause and what to do about it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.ledger import FINAL
from service.queue.queues import Queue
from service.tables import Breaker, BreakerState, Instance, Job, JobEvent, Priority, QueueMode, ResultObject, State

COLORS: Final = {
    State.CONFIRMED: "green",
    State.DELIVERED: "cyan",  # accepted; green is what is proved
    State.REJECTED: "yellow",
    State.FILTERED: "dim",
    State.CANCELLED: "dim",
    State.FAILED: "red",
}


def as_dict(job: Job, now: dt.datetime) -> dict[str, Any]:
    """Return what a script wants to know of a job; no Reading, no path."""
    return {
        "id": job.id,
        "state": job.state,
        "outcome": job.outcome,
        "revision": job.revision,
        "priority": priority_name(job.priority),
        "peer": job.peer,
        "attempts": job.attempts,
        "seconds_in_state": round((now - job.state_since).total_seconds(), 1),
        "created_at": job.created_at.isoformat(),
        "overdue": job.overdue,
        "confirmed_at": None if job.confirmed_at is None else job.confirmed_at.isoformat(),
        "being_worked_on_by": job.lease_owner,
        "not_before": job.not_before.isoformat(),
        "again_at": job.not_before.isoformat() if job.parked and job.state not in FINAL else None,
        "cause": {"code": job.cause_code, "text": job.cause_text} if job.cause_code else None,
        "next_action": job.next_action,
        "bundle_sha256": job.bundle_sha256,
    }


def priority_name(priority: int) -> str:
    """Return the name of a priority, or its number where it has none."""
    named = {int(each): each.name.lower() for each in Priority}
    return named.get(priority, str(priority))


def durations(events: Sequence[JobEvent]) -> dict[str, float]:
    """Return how many milliseconds each step of a job took, the last time it was taken."""
    return {event.code: round(event.milliseconds, 1) for event in events if event.milliseconds is not None}


def queues_table(
    queues: Sequence[Queue], breakers: Sequence[Breaker], refused: Sequence[Mapping[str, str]] = ()
) -> RenderableType:
    """Return what waits in each queue, which destination is left alone and why films are refused now."""
    rows = Table(box=None, pad_edge=False)
    for title in ("queue", "mode", "waiting", "under way", "asked by", "reason"):
        rows.add_column(title, justify="right" if title in ("waiting", "under way") else "left", overflow="fold")
    for queue in queues:
        rows.add_row(queue.name, queue.mode, str(queue.waiting), str(queue.under_way), queue.changed_by, queue.reason)
    alone = Table(box=None, pad_edge=False)
    for title in ("destination", "sent to", "cause and next action"):
        alone.add_column(title, overflow="fold")
    for row in breakers:
        lines = [row.cause_text or "", _to_do(row.next_action)]
        if row.state != BreakerState.CLOSED and row.probe_at is not None:
            lines.append(
                f"tried again by itself, next at {row.probe_at:%Y-%m-%d %H:%M:%S} UTC; at once on `carpus jobs retry`"
            )
        lines = [line for line in lines if line]
        alone.add_row(row.destination, "yes" if row.state == BreakerState.CLOSED else "no", "\n".join(lines))
    causes = Table(box=None, pad_edge=False)
    for title in ("films are refused for now (0xA700)", "cause and next action"):
        causes.add_column(title, overflow="fold")
    for each in refused:
        causes.add_row(each["code"], "\n".join(line for line in (each["text"], _to_do(each["next_action"])) if line))
    parts: list[RenderableType] = [rows]
    parts += [Text(""), alone] if breakers else []
    parts += [Text(""), causes] if refused else []
    return Group(*parts)


def _to_do(next_action: str | None) -> str:
    """Return the line that says what a person does; where it is nothing, that is said without an arrow."""
    return f"-> {next_action}" if next_action and not next_action.startswith("none") else next_action or ""


def details(
    job: Job, instance: Instance, events: Sequence[JobEvent], results: Sequence[ResultObject], now: dt.datetime
) -> dict[str, Any]:
    """Return everything about one job, for the identified side."""
    uids = ("SOPInstanceUID", "SOPClassUID", "TransferSyntaxUID", "StudyInstanceUID", "SeriesInstanceUID")
    return {
        **as_dict(job, now),
        "instance": {
            **{keyword: getattr(instance, keyword) for keyword in uids},
            "calling_ae_title": instance.calling_ae_title,
            "address": instance.address,
            "received_at": instance.received_at.isoformat(),
            "byte_count": instance.byte_count,
        },
        "timeline": [
            {
                "at": event.at.isoformat(),
                "event": event.code,
                "text": event.text,
                "milliseconds": None if event.milliseconds is None else round(event.milliseconds, 1),
                "process": event.process,
            }
            for event in events
        ],
        "results": [
            {
                "kind": row.kind,
                "destination": row.destination,
                "SOPClassUID": row.SOPClassUID,
                "SOPInstanceUID": row.SOPInstanceUID,
                "state": row.state,
                "confirmed_by": row.confirmed_by,
                "sent_again": row.resends,
                "status": None if row.status_code is None else f"0x{row.status_code:04X}",
            }
            for row in results
        ],
    }


def table(
    jobs: Sequence[Job], counts: dict[State, int], now: dt.datetime, queues: Sequence[Queue] = ()
) -> RenderableType:
    """Return the list, newest first, under one line of counts and what a person holds."""
    rows = Table(box=None, pad_edge=False)
    for title, justify in (("job", "right"), ("state", "left"), ("since", "right"), ("tries", "right")):
        rows.add_column(title, justify=justify)  # type: ignore[arg-type]  # a literal, seen as str
    rows.add_column("cause and next action", overflow="fold")
    for job in jobs:
        lines = [job.cause_text or "", _to_do(job.next_action)]
        if job.parked and job.not_before > now and job.state not in FINAL:
            lines.append(f"again in {age(job.not_before - now)}")
        if job.overdue:
            lines.insert(0, "overdue")
        rows.add_row(
            str(job.id),
            Text(
                job.state + (" (confirmed)" if job.state == State.REJECTED and job.confirmed_at else ""),
                style=COLORS.get(State(job.state), ""),
            ),
            age(now - job.state_since),
            str(job.attempts),
            "\n".join(line for line in lines if line),
        )
    summary = "  ".join(f"{state} {count}" for state, count in counts.items() if count) or "no jobs"
    said = [Text(summary, style="bold")]
    if counts.get(State.FILTERED) and all(job.state != State.FILTERED for job in jobs):
        said.append(Text("FILTERED is not listed: `carpus jobs list --state filtered`", style="dim"))
    held = [_held(queue) for queue in queues if queue.mode != QueueMode.RUNNING]
    return Group(*said, *(Text(line, style="yellow") for line in held), rows)


def _held(queue: Queue) -> str:
    why = f" ({queue.reason})" if queue.reason else ""
    return f"{queue.name} is {queue.mode} by {queue.changed_by}{why}; `carpus jobs resume {queue.name}` ends it"


def page(detail: dict[str, Any]) -> RenderableType:
    """Return one job with its timeline and results."""
    head = Table(box=None, show_header=False, pad_edge=False)
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    cause = detail["cause"]
    for name, value in (
        ("job", f"{detail['id']} (revision {detail['revision']})"),
        ("state", detail["state"]),
        ("received", f"{detail['created_at'][:19].replace('T', ' ')} UTC, {detail['priority']}"),
        ("confirmed", detail["confirmed_at"] and f"{detail['confirmed_at'][:19].replace('T', ' ')} UTC"),
        ("cause", f"{cause['text']} [{cause['code']}]" if cause else None),
        ("next action", detail["next_action"]),
        (
            "again at",
            detail["again_at"] and f"{detail['again_at'][:19].replace('T', ' ')} UTC, or on `carpus jobs retry`",
        ),
        ("worked on by", detail["being_worked_on_by"]),
        ("film", detail["instance"]["SOPInstanceUID"]),
        ("study", detail["instance"]["StudyInstanceUID"]),
        ("from", f"{detail['instance']['calling_ae_title']} at {detail['instance']['address']}"),
    ):
        if value:
            head.add_row(name, Text(str(value)))
    timeline = Table(box=None, pad_edge=False, title="timeline", title_justify="left")
    for column in ("at (UTC)", "event", "ms", "text", "process"):
        timeline.add_column(column, justify="right" if column == "ms" else "left", overflow="fold")
    days = {event["at"][:10] for event in detail["timeline"]}
    for event in detail["timeline"]:
        milliseconds = "" if event["milliseconds"] is None else f"{event['milliseconds']:.0f}"
        at = event["at"][11:23] if len(days) == 1 else event["at"][:19].replace("T", " ")
        timeline.add_row(at, event["event"], milliseconds, Text(event["text"]), event["process"] or "")
    results = Table(box=None, pad_edge=False, title="results", title_justify="left")
    for column in ("kind", "destination", "state", "status", "SOPInstanceUID"):
        results.add_column(column, overflow="fold")
    for row in detail["results"]:
        state = row["state"] + (f" by {row['confirmed_by']}" if row["confirmed_by"] else "")
        results.add_row(row["kind"], row["destination"], state, row["status"] or "", row["SOPInstanceUID"])
    parts: list[RenderableType] = [head, Text(""), timeline]
    if detail["results"]:
        parts += [Text(""), results]
    return Group(*parts)


def age(span: dt.timedelta) -> str:
    """Return a span in the unit that reads best."""
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
