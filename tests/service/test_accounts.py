"""Users, their passwords and tokens, and who is locked out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.__main__ import cli
from service.db import connect
from service.settings import load
from service.tables import Account, LoginFailure
from service.trust.accounts import FAILURES_ALLOWED, LOCK, Accounts, Lockout, Role, UnknownUser
from tests.service.installation import Clock, Installation

PASSWORD = "a long enough password"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.jobs.engine.dispose()


@pytest.fixture
def accounts(installation: Installation) -> Accounts:
    return Accounts(installation.jobs.engine, installation.clock)


def test_a_password_opens_for_its_name_alone(accounts: Accounts) -> None:
    accounts.add("li", Role.RADIOLOGIST, password=PASSWORD, observer_name="Chen^Li")
    user = accounts.admitted("li", PASSWORD)
    assert user is not None
    assert (user.role, user.observer_name) == (Role.RADIOLOGIST, "Chen^Li")
    for name, password in (("li", PASSWORD + "x"), ("Li", PASSWORD), ("nobody", PASSWORD), ("li", "")):
        assert accounts.admitted(name, password) is None
    accounts.set_disabled("li", True)
    assert accounts.admitted("li", PASSWORD) is None


def test_neither_password_nor_token_is_in_the_database(accounts: Accounts, installation: Installation) -> None:
    accounts.add("li", Role.VIEWER, password=PASSWORD)
    token = accounts.add("prometheus", Role.SERVICE)
    assert token is not None
    with Session(installation.jobs.engine) as session:
        rows = str([vars(row) for row in session.scalars(select(Account))])
    assert PASSWORD not in rows
    assert token not in rows
    assert token.removeprefix("carpus_") not in rows
    user = accounts.by_token(token)
    assert user is not None
    assert user.role is Role.SERVICE
    assert accounts.by_token(token[:-1]) is None
    assert accounts.set_password("prometheus", "") != token
    assert accounts.by_token(token) is None


@pytest.mark.parametrize(
    ("name", "role", "password", "observer", "said"),
    [
        ("li", Role.VIEWER, "short", "", "5 characters; 12 to 1024"),
        ("li", Role.VIEWER, "x" * 2000, "", "2000 characters"),
        ("", Role.VIEWER, PASSWORD, "", "1 to 64 printable"),
        ("a\nb", Role.VIEWER, PASSWORD, "", "1 to 64 printable"),
        (" li", Role.VIEWER, PASSWORD, "", "1 to 64 printable"),
        ("li", Role.VIEWER, None, "", "a service has a token"),
        ("li", Role.SERVICE, PASSWORD, "", "a service has a token"),
        ("li", Role.RADIOLOGIST, PASSWORD, "Chen\\Li", "no backslash"),
        ("taken", Role.VIEWER, PASSWORD, "", "is taken"),
    ],
)
def test_what_cannot_be_a_user_is_refused_with_its_reason(
    accounts: Accounts, name: str, role: Role, password: str | None, observer: str, said: str
) -> None:
    accounts.add("taken", Role.VIEWER, password=PASSWORD)
    with pytest.raises(UnknownUser, match=said):
        accounts.add(name, role, password=password, observer_name=observer)


def test_a_service_and_a_person_do_not_turn_into_each_other(accounts: Accounts) -> None:
    accounts.add("li", Role.VIEWER, password=PASSWORD)
    accounts.add("monitor", Role.SERVICE)
    for name, role in (("li", Role.SERVICE), ("monitor", Role.ADMINISTRATOR)):
        with pytest.raises(UnknownUser, match="a service stays one"):
            accounts.set_role(name, role)


def test_a_user_of_a_provider_keeps_to_one_subject(accounts: Accounts) -> None:
    accounts.add("li", Role.VIEWER, password=PASSWORD)
    with pytest.raises(UnknownUser, match="is taken"):  # a local account is not taken over by a name
        accounts.from_provider("https://id.example", "1", "li", Role.ADMINISTRATOR, "")
    made = accounts.from_provider("https://id.example", "2", "wei", Role.VIEWER, "Wang^Wei")
    changed = accounts.from_provider("https://id.example", "2", "renamed", Role.RADIOLOGIST, "Wang^Wei")
    assert (made.name, changed.name, changed.role) == ("wei", "wei", Role.RADIOLOGIST)
    with pytest.raises(UnknownUser, match="is taken"):
        accounts.from_provider("https://other.example", "2", "wei", Role.VIEWER, "")
    with pytest.raises(UnknownUser, match="logs in at"):
        accounts.set_password("wei", PASSWORD)
    assert accounts.admitted("wei", "") is None
    accounts.set_disabled("wei", True)
    with pytest.raises(UnknownUser, match="is disabled here"):
        accounts.from_provider("https://id.example", "2", "wei", Role.VIEWER, "")


def test_a_lock_holds_for_an_address_and_for_a_name_and_ends(installation: Installation) -> None:
    clock = Clock()
    lockout = Lockout(installation.jobs.engine, "k" * 40, clock)
    for number in range(FAILURES_ALLOWED):
        assert lockout.attempt(address="10.0.0.1", name="li" if number < 4 else "other") == 0
    assert lockout.attempt(address="10.0.0.1", name="somebody") == LOCK.total_seconds()
    assert lockout.attempt(address="10.0.0.2", name="li") == 0  # the fifth for this name
    assert Lockout(installation.jobs.engine, "k" * 40, clock).attempt(address="10.0.0.3", name="li") > 0
    clock.pass_by(LOCK.total_seconds() + 1)
    assert lockout.attempt(address="10.0.0.9", name="x") == 0
    with Session(installation.jobs.engine) as session:
        rows = list(session.scalars(select(LoginFailure)))
    assert len(rows) == 2  # what is too old is gone
    assert not any("10.0.0.9" in row.key for row in rows)
    lockout.succeeded(address="10.0.0.9", name="x")
    with Session(installation.jobs.engine) as session:
        assert not list(session.scalars(select(LoginFailure)))


def test_guesses_sent_all_at_once_are_no_more_than_guesses_in_a_row(installation: Installation) -> None:
    lockout = Lockout(installation.jobs.engine, "k" * 40, installation.clock)
    with ThreadPoolExecutor(8) as threads:
        left = list(threads.map(lambda _: lockout.attempt(address="10.0.0.1", name="li"), range(24)))
    assert left.count(0) == FAILURES_ALLOWED


def test_an_ipv6_guesser_has_one_network_not_all_its_addresses(installation: Installation) -> None:
    lockout = Lockout(installation.jobs.engine, "k" * 40, installation.clock)
    for number in range(FAILURES_ALLOWED):
        lockout.attempt(address=f"2001:db8:1:2::{number}", name=f"name {number}")
    assert lockout.attempt(address="2001:db8:1:2:ffff::1", name="new") > 0
    assert lockout.attempt(address="2001:db8:1:3::1", name="new") == 0


def test_the_commands_manage_users(tmp_path: Path) -> None:
    config = tmp_path / "carpus.yaml"
    config.write_text(yaml.safe_dump({"data_directory": str(tmp_path / "data"), "log_level": "ERROR"}))

    def run(*words: str, typed: str = "") -> str:
        result = CliRunner().invoke(cli, ["users", *words, "--config", str(config)], input=typed)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    twice = f"{PASSWORD}\n{PASSWORD}\n"
    assert "added as radiologist" in run("add", "li", "--role", "radiologist", "--observer", "Chen^Li", typed=twice)
    made = run("add", "wei", "--role", "viewer", "--generate")
    token = run("add", "prometheus", "--role", "service").split("token ")[1].split()[0]
    assert "radiologist" in run("list")
    assert "Chen^Li" in run("list")
    run("role", "wei", "--role", "administrator")
    run("disable", "li")
    accounts = Accounts(connect(load(config).resolved_database_url))
    assert accounts.admitted("li", PASSWORD) is None
    run("enable", "li")
    assert accounts.admitted("li", PASSWORD)
    found = accounts.admitted("wei", made.split("password ")[1].split()[0])
    assert found is not None
    assert found.role is Role.ADMINISTRATOR
    assert accounts.by_token(token)
    run("passwd", "li", typed="another long password\n" * 2)
    assert accounts.admitted("li", "another long password")
    assert "token carpus_" in run("passwd", "prometheus")
    assert accounts.by_token(token) is None
    nobody = CliRunner().invoke(cli, ["users", "disable", "nobody", "--config", str(config)])
    assert isinstance(nobody.exception, UnknownUser)
    accounts._engine.dispose()
