"""What people do on the pages and at the command line stands in the audit trail."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from service.__main__ import cli
from service.auditing.trail import Trail
from service.tables import AuditRecord
from service.trust.accounts import Role
from tests.service.installation import Installation
from tests.service.people import PASSWORD, House, token


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(Installation(tmp_path))


def _records(house: House) -> list[AuditRecord]:
    return Trail(house.installation.jobs.engine).records()


def test_who_looked_at_a_film_is_named_once_a_view(house: House) -> None:
    job = house.installation.deliver()
    client = house.visit(Role.RADIOLOGIST)
    assert client.get(f"/films/{job}").status_code == 200
    assert client.get(f"/films/{job}/live").status_code == 200
    seen = [row for row in _records(house) if row.event == "ACCESSED"]
    study = house.installation.jobs.instance(house.installation.jobs.get(job).instance_id).StudyInstanceUID
    assert [(row.actor, row.study) for row in seen] == [("radiologist", study)]


def test_a_view_that_was_refused_is_none(house: House) -> None:
    job = house.installation.deliver()
    assert house.visitor().get(f"/films/{job}").status_code in (302, 303, 401, 403)
    assert [row for row in _records(house) if row.event == "ACCESSED"] == []


def test_log_in_log_out_and_refusal_are_told_apart(house: House) -> None:
    client = house.visitor()
    typed = {"user": "s3cret typed as a name", "password": "wrong", "csrf": token(client.get("/login").text)}
    assert client.post("/login", data=typed).status_code == 401
    typed = {"user": "viewer", "password": PASSWORD, "csrf": token(client.get("/login").text)}
    assert client.post("/login", data=typed).status_code == 303
    assert client.post("/logout", data={"csrf": token(client.get("/").text)}).status_code == 303
    told = [(row.event, row.outcome, row.actor) for row in _records(house)]
    assert told == [
        ("LOGIN", "REFUSED", "unknown"),
        ("LOGIN", "SUCCESS", "viewer"),
        ("LOGOUT", "SUCCESS", "viewer"),
    ]
    assert not any("s3cret" in row.message for row in _records(house))


def test_what_an_administrator_changes_is_told_with_his_name(house: House) -> None:
    job = house.installation.wait_for_retry("pacs-away", "the PACS does not answer", "start it")
    client = house.visit(Role.ADMINISTRATOR)
    csrf = token(client.get(f"/films/{job}").text)
    assert client.post(f"/films/{job}/cancel", data={"csrf": csrf}).status_code == 303
    assert client.post("/queues/inference/pause", data={"csrf": csrf, "reason": "service"}).status_code == 303
    told = [(row.event, row.actor) for row in _records(house)]
    assert ("CHANGED", "admin") in told
    assert ("CONFIGURED", "admin") in told


def test_what_the_command_line_changes_is_told(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    config = tmp_path / "carpus.yaml"
    config.write_text(f"data_directory: {tmp_path}\n")
    for words in (["users", "add", "li", "--role", "viewer", "--generate"], ["jobs", "pause", "delivery"]):
        result = CliRunner().invoke(cli, [*words, "--config", str(config)])
        assert result.exit_code == 0, result.output
    told = [row.event for row in Trail(installation.jobs.engine).records()]
    assert told == ["USER_CHANGED", "CONFIGURED"]
