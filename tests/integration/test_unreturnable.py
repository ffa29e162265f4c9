"""Films whose result can go nowhere, through the whole service, as the administrator of a PACS meets them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from pynetdicom import AE

from models.phantom import draw
from service.conformance import SR_CLASSES, STORAGE_CLASSES
from service.demo.stand_in_pacs import RESULT_CLASSES
from service.queue.jobs import State
from service.wrap import Patient, wrap
from tests.fake_pacs import FakePacs
from tests.integration.serving import ROOT, Installation, serving
from tests.integration.test_serve import send, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CHILD = Patient("TEST^CHILD", "TEST-8", "F", date(2016, 5, 4))
OTHER = Patient("TEST^OTHER", "TEST-9", "F", date(2016, 5, 4))
IMAGE = draw(3, age_years=10, sex="F", rows=600, columns=450).image


@pytest.fixture(scope="module")
def strict() -> Iterator[FakePacs]:
    """Yield a PACS that answers C-ECHO and takes nothing."""
    with FakePacs(refuse=(*RESULT_CLASSES, *STORAGE_CLASSES)) as pacs:
        yield pacs


@pytest.fixture(scope="module")
def carpus(tmp_path_factory: pytest.TempPathFactory, strict: FakePacs) -> Iterator[Installation]:
    there = {"name": "strict", "ae_title": "PACS", "host": "127.0.0.1", "port": strict.port}
    with serving(tmp_path_factory.mktemp("strict"), destinations=[there]) as installation:
        yield installation


def shown(installation: Installation, film: Any) -> dict[str, Any]:
    """Return what `carpus jobs show` tells of a film."""
    job_id = installation.jobs.find(film.SOPInstanceUID)[0].id
    command = [sys.executable, "-m", "service", "jobs", "show", str(job_id), "--json"]
    done = subprocess.run(
        [*command, "--config", str(installation.config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_pacs_that_takes_none_of_the_classes_fails_at_once_with_the_classes_named(
    carpus: Installation, strict: FakePacs
) -> None:
    film = wrap(IMAGE, CHILD, study="nowhere")
    send(carpus, film)
    wait_for(carpus.jobs, [film], State.FAILED, 120)
    told = shown(carpus, film)
    assert told["cause"]["code"] == "sop-class-refused"
    assert carpus.jobs.find(film.SOPInstanceUID)[0].attempts == 1
    for uid in SR_CLASSES.values():
        assert uid in f"{told['cause']['text']} {told['next_action']}"
    assert strict.requests == 0  # nothing was offered that could be refused


@pytest.mark.parametrize("keyword", ["PatientID", "PatientSex"])
def test_two_patients_in_one_study_fail_with_the_attribute_named(carpus: Installation, keyword: str) -> None:
    first = wrap(IMAGE, CHILD, study=f"two {keyword}")
    second = wrap(IMAGE, CHILD, study=f"two {keyword}", number=2)
    setattr(second, keyword, "M" if keyword == "PatientSex" else "TEST-9")
    send(carpus, first)
    send(carpus, second)
    wait_for(carpus.jobs, [second], State.FAILED, 120)
    told = shown(carpus, second)
    assert told["cause"]["code"] == "conflicting-patient"
    assert keyword in told["cause"]["text"]
    assert "TEST-9" not in json.dumps(told["cause"])


def test_a_film_without_a_study_is_refused_with_the_attribute_named(carpus: Installation) -> None:
    film = wrap(IMAGE, CHILD, study="none")
    del film.StudyInstanceUID
    ae = AE("PACS")
    ae.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", carpus.settings.scp_port, ae_title=carpus.settings.ae_title)
    answer = association.send_c_store(film)
    association.release()
    assert answer.Status == 0xC001
    assert answer.ErrorComment == "StudyInstanceUID is missing or empty"
    assert carpus.jobs.find(film.SOPInstanceUID) == ()
