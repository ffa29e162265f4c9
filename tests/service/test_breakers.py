"""A destination that keeps failing is left alone, tried by C-ECHO, and sent to again."""

import pytest
from sqlalchemy import Engine

from service.errors import CarpusError, Permanent, Postponed, Retryable
from service.queue.breakers import Breakers
from service.queue.jobs import Jobs, State
from service.sending.probing import Prober
from service.sending.requestor import Address
from service.settings import BreakerSettings, Destination, Settings
from tests.service.test_jobs import Clock, advanced, received

AWAY = Retryable("PACS at 10.0.0.1:104 does not answer", code="peer-unreachable", next_action="check that it runs")
SETTINGS = BreakerSettings(failures=3, probe_seconds=10, longest_probe_seconds=35)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(engine: Engine, clock: Clock) -> Jobs:
    return Jobs(engine, process="test", clock=clock)


@pytest.fixture
def breakers(jobs: Jobs) -> Breakers:
    return Breakers(jobs, SETTINGS)


def opened(breakers: Breakers, name: str = "pacs") -> None:
    for _ in range(SETTINGS.failures):
        breakers.failed(name, AWAY)


def test_it_opens_after_so_many_failures_in_a_row_and_says_why(breakers: Breakers) -> None:
    breakers.failed("pacs", AWAY)
    breakers.failed("pacs", AWAY)
    breakers.succeeded("pacs")  # in a row, not in all
    breakers.failed("pacs", AWAY)
    breakers.failed("pacs", AWAY)
    breakers.check("pacs")
    breakers.failed("pacs", AWAY)
    with pytest.raises(Postponed, match=r"pacs is not sent to since .*: PACS at .* does not answer") as caught:
        breakers.check("pacs")
    assert (caught.value.code, caught.value.next_action) == ("destination-unavailable", "check that it runs")
    breakers.check("archive")


def test_it_is_half_open_for_one_probe_and_closes_when_that_is_answered(breakers: Breakers, clock: Clock) -> None:
    opened(breakers)
    seen: list[str] = []

    def answered(name: str) -> CarpusError | None:
        seen.append(breakers.all()[0].state)
        assert breakers.probe_due(lambda _: pytest.fail("a second probe at the same time")) == []
        return None

    assert breakers.probe_due(answered) == []  # not due yet
    clock.pass_seconds(10)
    assert breakers.probe_due(answered) == ["pacs"]
    assert seen == ["half-open"]
    breakers.check("pacs")


def test_each_probe_in_vain_doubles_the_time_to_the_next_up_to_the_longest(breakers: Breakers, clock: Clock) -> None:
    opened(breakers)
    waits = []
    for _ in range(4):
        due = breakers.all()[0].probe_at
        assert due is not None
        waits.append((due - clock()).total_seconds())
        clock.pass_seconds(waits[-1])
        assert breakers.probe_due(lambda _: AWAY) == []
    assert waits == [10, 20, 35, 35]  # 10 x 2 = 20, x 4 = 40 > 35


def test_a_prober_that_died_in_its_probe_does_not_leave_it_half_open(breakers: Breakers, clock: Clock) -> None:
    opened(breakers)
    clock.pass_seconds(10)
    with pytest.raises(KeyboardInterrupt):
        breakers.probe_due(lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert breakers.probe_due(lambda _: None) == []
    clock.pass_seconds(121)
    assert breakers.probe_due(lambda _: None) == ["pacs"]


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (None, True),
        (AWAY, False),
        (Permanent("CARPUS is not known", code="calling-ae-refused"), True),  # it answers; deliveries will say the rest
    ],
)
def test_the_prober_asks_by_c_echo_and_lets_go_what_waited(
    jobs: Jobs, clock: Clock, answer: CarpusError | None, closes: bool
) -> None:
    import datetime as dt

    asked: list[Address] = []

    def echo(address: Address, **_: object) -> float:
        asked.append(address)
        if answer is not None:
            raise answer
        return 1.0

    pacs = Destination(name="pacs", ae_title="PACS", host="10.0.0.1", port=104)
    settings = Settings(destinations=(pacs,), breaker=SETTINGS)
    opened(Breakers(jobs, SETTINGS))
    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    claim = jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    jobs.postpone(claim, "destination-unavailable", "pacs is not sent to", dt.timedelta(hours=1))
    prober = Prober(jobs, settings, echo=echo)
    assert prober.round() == []
    clock.pass_seconds(11)
    assert prober.round() == (["pacs"] if closes else [])
    assert [address.host for address in asked] == ["10.0.0.1"]
    assert (jobs.claim_next(State.INFERRED) is not None) == closes


def test_a_step_that_was_postponed_counts_no_attempt_and_one_line(jobs: Jobs, clock: Clock) -> None:
    import datetime as dt

    job_id = advanced(jobs, received(jobs), State.PREPARED, State.INFERRED)
    for _ in range(3):
        claim = jobs.claim(job_id, State.INFERRED)
        assert claim is not None
        jobs.postpone(claim, "destination-unavailable", "pacs is not sent to", dt.timedelta(seconds=10))
        clock.pass_seconds(11)
    assert jobs.get(job_id).attempts == 0
    assert [event.code for event in jobs.timeline(job_id)].count("waits") == 1
