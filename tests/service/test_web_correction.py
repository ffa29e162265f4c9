"""A radiologist corrects a reading on the page."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import standards
from service import amendments
from service.queue.jobs import State
from service.trust.accounts import Role
from tests.service import readings
from tests.service.installation import Installation
from tests.service.people import House, token

UP = standards.fine_levels("mc5")[standards.fine_levels("mc5").index(readings.middle("mc5")) + 1]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = Installation(tmp_path)
    yield House(made)
    made.jobs.engine.dispose()


@pytest.fixture(scope="module")
def shipped() -> readings.Bundle:
    return amendments.describe("default").identity


def delivered(house: House, bundle: readings.Bundle) -> int:
    return house.installation.deliver(dataclasses.replace(readings.staged(), bundle=bundle))


def test_a_radiologist_corrects_and_verifies_on_the_page(house: House, shipped: readings.Bundle) -> None:
    job_id = delivered(house, shipped)
    client = house.visit(Role.RADIOLOGIST)
    assert f'href="/films/{job_id}/amend"' in client.get(f"/films/{job_id}").text
    page = client.get(f"/films/{job_id}/amend").text
    assert "Chen^Li" in page
    assert f'<option value="{readings.middle("mc5")}" selected' in page
    present = {f"stage-{bone}": readings.middle(bone) for bone in readings.RUS}
    form = present | {"stage-mc5": UP, "reject": "pp2", "organisation": "Children's Hospital", "verify": "yes"}
    answer = client.post(f"/films/{job_id}/amend", data={**form, "csrf": token(page)})
    assert answer.status_code == 303, answer.text
    (made,) = [job for job in house.installation.jobs.list() if job.id != job_id]
    assert answer.headers["location"] == f"/films/{made.id}?done=amend"
    row = house.installation.jobs.amendment(made.id)
    assert row is not None
    assert (row.stages, row.rejected, row.verified, row.observer) == ({"mc5": UP}, ["pp2"], True, "Chen^Li")
    assert made.state == State.INFERRED
    shown = client.get(f"/films/{made.id}").text
    assert "Corrected by Li Chen, Children&#39;s Hospital: verified." in shown


def test_a_bad_correction_comes_back_with_its_cause(house: House, shipped: readings.Bundle) -> None:
    job_id = delivered(house, shipped)
    client = house.visit(Role.RADIOLOGIST)
    csrf = token(client.get(f"/films/{job_id}/amend").text)
    nothing = client.post(f"/films/{job_id}/amend", data={"csrf": csrf})
    assert (nothing.status_code, "nothing is corrected" in nothing.text) == (400, True)
    unknown = client.post(f"/films/{job_id}/amend", data={"csrf": csrf, "stage-mc5": "99"})
    assert (unknown.status_code, "mc5 has no stage &#39;99&#39;" in unknown.text) == (400, True)
    nobody = client.post(f"/films/{job_id}/amend", data={"csrf": csrf, "verify": "yes", "organisation": ""})
    assert (nobody.status_code, "organisation is empty" in nobody.text) == (400, True)
    assert len(house.installation.jobs.list()) == 1


def test_whoever_has_no_observer_name_is_told_who_gives_one(house: House, shipped: readings.Bundle) -> None:
    job_id = delivered(house, shipped)
    client = house.visit(Role.RADIOLOGIST)
    house.accounts.set_role("radiologist", Role.RADIOLOGIST, observer_name="")
    client = house.visit(Role.RADIOLOGIST)
    page = client.get(f"/films/{job_id}/amend").text
    assert "An administrator gives you one" in page
    answer = client.post(f"/films/{job_id}/amend", data={"csrf": token(page), "stage-mc5": UP})
    assert (answer.status_code, "the observer is empty" in answer.text) == (400, True)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMINISTRATOR])
def test_nobody_else_corrects(house: House, role: Role) -> None:
    job_id = house.installation.deliver(readings.staged())
    client = house.visit(role)
    assert "/amend" not in client.get(f"/films/{job_id}").text
    assert client.get(f"/films/{job_id}/amend").status_code == 403
    assert client.post(f"/films/{job_id}/amend", data={"stage-mc5": UP}).status_code == 403


def test_a_form_of_another_session_is_refused(house: House) -> None:
    job_id = house.installation.deliver(readings.staged())
    answer = house.visit(Role.RADIOLOGIST).post(f"/films/{job_id}/amend", data={"csrf": "x", "stage-mc5": UP})
    assert answer.status_code == 403


def test_a_film_without_a_reading_has_nothing_to_correct(house: House) -> None:
    job_id = house.installation.reject()
    client = house.visit(Role.RADIOLOGIST)
    answer = client.get(f"/films/{job_id}/amend")
    assert (answer.status_code, "holds no reading" in answer.text) == (400, True)
    assert client.get("/films/999/amend").status_code == 404
