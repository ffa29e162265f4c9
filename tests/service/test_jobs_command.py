"""`carpus jobs`: every subcommand for people and, with --json, for scripts."""

import csv
import datetime as dt
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text, update

from service import db
from service.__main__ import cli
from service.errors import Retryable
from service.queue.breakers import Breakers
from service.queue.jobs import Jobs, State
from service.settings import BreakerSettings
from service.tables import BreakerState, Job
from tests.service.test_jobs import advanced, film

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a subcommand of `carpus jobs` on an installation of the test's own."""
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))

    def command(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli, ["jobs", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    return command


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    yield Jobs(engine, process="test")
    engine.dispose()


def receive(jobs: Jobs, number: int, *states: State, **changes: str) -> int:
    jobs.record_instance(replace(film(number), **changes))
    return advanced(jobs, jobs.find(f"2.25.{number}")[0].id, *states)


def failed(jobs: Jobs, number: int, cause: str = "calling-ae-refused") -> int:
    job_id = receive(jobs, number, State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    jobs.fail(claim, cause, "PACS rejected the association", "in the PACS, register CARPUS")
    return job_id


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("arguments", [[], ["list"], ["--state", "failed"], ["--limit", "3"]])
def test_jobs_without_a_subcommand_shows_the_queue(run: Run, arguments: list[str]) -> None:
    assert "no jobs" in run(*arguments)


def test_help_names_the_subcommands(run: Run) -> None:
    output = run("--help")
    for name in (
        "list",
        "show",
        "retry",
        "cancel",
        "requeue",
        "export",
        "priority",
        "pause",
        "drain",
        "resume",
        "queues",
    ):
        assert f"  {name} " in output


def test_an_unknown_subcommand_or_state_is_a_usage_error(run: Run) -> None:
    assert "lost" in run("lost", status=2)
    assert "RECEIVED, PREPARED" in run("list", "--state", "lost", status=2)


def test_the_list_is_filtered_by_state_cause_time_and_order(run: Run, jobs: Jobs) -> None:
    dead = failed(jobs, 1)
    receive(jobs, 2, accession_number="ACC-77")
    assert [job["id"] for job in lines(run("list", "--json"))] == [2, 1]
    assert [job["id"] for job in lines(run("list", "--state", "failed", "--json"))] == [dead]
    assert [job["id"] for job in lines(run("list", "--cause", "calling-ae-refused", "--json"))] == [dead]
    (found,) = lines(run("list", "--accession", "ACC-77", "--json"))
    assert (found["id"], found["priority"], found["peer"]) == (2, "routine", "PACS")
    assert run("list", "--accession", "ACC-78", "--json") == ""
    assert "not listed" not in run("list")
    other = receive(jobs, 3)
    jobs.advance(jobs.claim(other, State.RECEIVED), State.FILTERED)
    assert "FILTERED is not listed: `carpus jobs list --state filtered`" in run("list")
    assert "not listed" not in run("list", "--state", "filtered")
    tomorrow = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).strftime("%Y-%m-%d")
    assert run("list", "--since", tomorrow, "--json") == ""
    assert "ACC-77" not in run("list") + run("list", "--json") + run("show", "2") + run("export", "--json")


@pytest.mark.parametrize(
    ("ago", "number"),
    [
        ("3d", 1), ("2h", 1), ("1w", 2), ("6000m", 2),
        ("{:%Y-%m-%d}", 1), ("{:%Y-%m-%dT%H:%M}", 1), ("{:%Y-%m-%dT%H:%M:%S}", 1),
    ],
)  # fmt: skip
def test_a_listing_and_an_export_begin_so_long_ago_or_on_a_day(run: Run, jobs: Jobs, ago: str, number: int) -> None:
    now = dt.datetime.now(dt.UTC)
    for uid, days in ((1, 4), (2, 0)):
        receive(jobs, uid)
        with jobs.engine.execution_options(write=True).begin() as connection:
            connection.execute(update(Job).where(Job.id == uid).values(created_at=now - dt.timedelta(days=days)))
    since = ago.format(now - dt.timedelta(days=1))
    assert len(lines(run("list", "--since", since, "--json"))) == number
    assert len(lines(run("export", "--since", since, "--json"))) == number


def test_show_has_cause_next_action_and_timeline(run: Run, jobs: Jobs) -> None:
    dead = failed(jobs, 1)
    detail = json.loads(run("show", str(dead), "--json"))
    assert detail["next_action"] == "in the PACS, register CARPUS"
    assert [event["event"] for event in detail["timeline"]] == ["received", "prepared", "inferred", "failed"]
    assert "register CARPUS" in run("show", str(dead))


def test_retry_by_number_or_by_cause(run: Run, jobs: Jobs) -> None:
    first, second, other = failed(jobs, 1), failed(jobs, 2), failed(jobs, 3, "no-destination")
    assert lines(run("retry", str(first), "--json")) == [{"id": first, "state": "INFERRED"}]
    assert f"job {second} goes on from INFERRED" in run("retry", "--cause", "calling-ae-refused")
    assert jobs.get(other).state == State.FAILED
    assert "name jobs" in run("retry", status=2)
    assert "name jobs" in run("retry", str(other), "--cause", "x", status=2)


def test_cancel_requeue_and_priority(run: Run, jobs: Jobs) -> None:
    first = receive(jobs, 1)
    assert lines(run("priority", "stat", str(first), "--json")) == [{"id": first, "priority": "stat"}]
    assert jobs.get(first).priority == 1
    assert lines(run("cancel", str(first), "--json")) == [{"id": first, "state": "CANCELLED"}]
    (again,) = lines(run("requeue", str(first), "--priority", "backfill", "--json"))
    assert again == {"id": 2, "of": first, "state": "RECEIVED"}
    assert (jobs.get(2).revision, jobs.get(2).priority) == (2, 9)


def test_one_wrong_number_keeps_none_of_the_others_back(run: Run, jobs: Jobs) -> None:
    first, second = failed(jobs, 1), failed(jobs, 2)
    said = run("retry", str(first), "999", str(second), status=1)
    assert f"job {first} goes on" in said
    assert f"job {second} goes on" in said
    assert "there is no job 999" in said
    rows = lines(run("cancel", "999", str(first), "--json", status=1))
    assert rows == [{"id": 999, "error": "there is no job 999"}, {"id": first, "state": "CANCELLED"}]
    assert jobs.get(second).state == State.INFERRED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "Missing argument 'JOB_ID'"),
        (("show", "abc"), "'abc' is not a valid integer"),
        (("list", "--limit", "0"), "0 is not in the range"),
        (("retry",), "name jobs, or a --cause"),
        (("retry", "1", "--cause", "x"), "name jobs, or a --cause"),
        (("cancel",), "Missing argument"),
        (("requeue", "1", "--priority", "urgent"), "'urgent' is not one of 'stat', 'routine', 'backfill'"),
        (("export", "--since", "yesterday"), "'yesterday' is no time: 30m, 12h, 7d or 2w ago"),
        (("export", "--since", "99999999999d"), "'99999999999d' is no time"),
        (("pause", "lunch"), "'lunch' is not one of 'intake', 'inference', 'delivery'"),
        (("drain", "--wait", "-1"), "-1.0 is not in the range"),
    ],
)
def test_wrong_input_is_named_with_what_is_right(run: Run, words: tuple[str, ...], said: str) -> None:
    assert said in run(*words, status=2)


def test_an_export_to_a_place_that_is_not_there_is_named(run: Run, jobs: Jobs, tmp_path: Path) -> None:
    receive(jobs, 1)
    assert "cannot be written: No such file" in run("export", "--output", str(tmp_path / "no" / "x.csv"), status=1)


def test_the_export_holds_every_job_and_names_nobody(run: Run, jobs: Jobs, tmp_path: Path) -> None:
    failed(jobs, 1)
    receive(jobs, 2, State.FILTERED)
    receive(jobs, 3, State.PREPARED)
    rows = list(csv.DictReader(io.StringIO(run("export"))))
    assert [(row["id"], row["state"], row["cause_code"]) for row in rows] == [
        ("3", "PREPARED", ""),
        ("1", "FAILED", "calling-ae-refused"),
    ]
    assert "2.25." not in run("export") + run("export", "--json")
    target = tmp_path / "jobs.jsonl"
    assert "2 jobs in" in run("export", "--json", "--output", str(target))
    assert json.loads(target.read_text().splitlines()[0])["milliseconds"].keys() == {"prepared"}


def test_a_header_puts_no_formula_into_the_spreadsheet(run: Run, jobs: Jobs) -> None:
    """PhotometricInterpretation opens the cause of a film that is not grey."""
    failed(jobs, 1)
    with jobs._write() as session:
        session.get_one(Job, 1).cause_text = '=HYPERLINK("HT of 1 samples a pixel is no grey film'
    (row,) = csv.DictReader(io.StringIO(run("export")))
    assert row["cause_text"] == "'=HYPERLINK(\"HT of 1 samples a pixel is no grey film"
    assert json.loads(run("export", "--json"))["cause_text"].startswith("=HYPERLINK")


def test_queues_are_paused_drained_and_resumed(run: Run, jobs: Jobs) -> None:
    receive(jobs, 1)
    paused = {row["queue"]: row for row in lines(run("pause", "--reason", "new GPU", "--json"))}
    assert {name: row["mode"] for name, row in paused.items()} == {
        "intake": "running",
        "inference": "paused",
        "delivery": "paused",
    }
    assert (paused["intake"]["waiting"], paused["inference"]["reason"]) == (1, "new GPU")
    run("resume")
    run("drain", "delivery")
    assert [row["mode"] for row in lines(run("queues", "--json"))] == ["running", "running", "draining"]
    assert "drain" in run("queues")
    assert "not empty after 0 s" in run("drain", "--wait", "0", status=1)
    run("cancel", "1")
    assert next(row["mode"] for row in lines(run("drain", "--wait", "1", "--json"))) == "draining"
    assert {row["mode"] for row in lines(run("resume", "--json"))} == {"running"}
    assert "intake" in run("pause", "lunch", status=2)


def test_a_drain_that_does_not_end_says_which_queue_is_paused(run: Run, jobs: Jobs) -> None:
    receive(jobs, 1, State.PREPARED)
    receive(jobs, 2)
    run("pause", "inference", "--reason", "new GPU")
    said = run("drain", "--wait", "0", status=1)
    assert "intake has 1 waiting and 0 under way;" in said
    assert "inference has 1 waiting and 0 under way, and is paused: `carpus jobs resume inference`" in said
    shown = " ".join(run().split())
    assert "inference is paused by" in shown
    assert "(new GPU); `carpus jobs resume inference` ends it" in shown
    run("resume")
    assert "paused" not in run()


def test_queues_say_why_films_are_refused(run: Run, jobs: Jobs) -> None:
    assert "refused" not in run("queues")
    cause = {"code": "disk-full", "text": "2 MB free", "next_action": "make room on the disk"}
    jobs.beat("scp", {"refusing": [cause]})
    shown = " ".join(run("queues").split())
    assert "films are refused for now (0xA700)" in shown
    assert "disk-full 2 MB free -> make room on the disk" in shown
    assert lines(run("queues", "--json"))[-1] == {
        "refusing": "disk-full",
        "text": "2 MB free",
        "next_action": "make room on the disk",
    }


def test_a_destination_left_alone_is_named_with_its_cause(run: Run, jobs: Jobs) -> None:
    away = Retryable("PACS does not answer", code="peer-unreachable", next_action="check that the PACS runs")
    Breakers(jobs, BreakerSettings(failures=1)).failed("pacs", away)
    probe_at = Breakers(jobs, BreakerSettings()).all()[0].probe_at
    assert lines(run("queues", "--json"))[-1] == {
        "destination": "pacs",
        "breaker": "open",
        "again_at": probe_at.isoformat(),
        "cause": {
            "code": "peer-unreachable",
            "text": "PACS does not answer",
            "next_action": "check that the PACS runs",
        },
    }
    said = " ".join(run("queues").split())
    assert "-> check that the PACS runs" in said
    assert "tried again by itself, next at 20" in said
    assert run("retry", str(failed(jobs, 1)))
    (alone,) = Breakers(jobs, BreakerSettings()).all()
    assert alone.state == BreakerState.OPEN
    assert alone.probe_at < probe_at  # a person who has mended the PACS does not wait for minutes


def test_a_job_that_waits_says_until_when_and_one_of_several_days_names_them(run: Run, jobs: Jobs) -> None:
    job_id = receive(jobs, 1, State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    assert json.loads(run("show", str(job_id), "--json"))["again_at"] is None
    jobs.retry_later(claim, "peer-unreachable", "PACS does not answer", dt.timedelta(hours=2), "check that it runs")
    said = " ".join(run("list").split())
    assert "-> check that it runs again in 2.0 h" in said
    detail = json.loads(run("show", str(job_id), "--json"))
    page = run("show", str(job_id))
    again = dt.datetime.fromisoformat(detail["again_at"])
    assert f"{again:%Y-%m-%d %H:%M:%S} UTC" in page
    received = dt.datetime.fromisoformat(detail["created_at"])
    assert f"{received:%Y-%m-%d %H:%M:%S} UTC, routine" in page
    tomorrow = Jobs(jobs.engine, process="test", clock=lambda: received + dt.timedelta(days=1))
    tomorrow.note(job_id, "looked at", "by a person")
    assert f"{received + dt.timedelta(days=1):%Y-%m-%d}" in run("show", str(job_id))


def test_what_is_confirmed_is_not_retried_and_the_answer_names_what_reads_it_again(run: Run, jobs: Jobs) -> None:
    done = receive(jobs, 1, State.PREPARED, State.INFERRED, State.DELIVERED, State.CONFIRMED)
    said = run("retry", str(done), status=1)
    assert f"job {done} is CONFIRMED; there is nothing to retry; `carpus jobs requeue {done}` reads its film" in said


@pytest.mark.parametrize("command", ["jobs", "jobs queues", "audit verify", "users list", "hold list"])
def test_a_person_s_command_leaves_the_tables_of_an_earlier_version_as_they_are(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It may come before the backup, beside the service of before that still runs."""
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))
    with jobs.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0013'"))
    result = CliRunner().invoke(cli, command.split())
    said = result.output + str(result.exception)
    assert result.exit_code == 1
    assert "stand at 0013" in said
    assert db.version(jobs.engine) == "0013"
