"""Earlier reports from Orthanc over DICOMweb, with a password, as a hospital's archive would give them."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import priors
from service.demo.pacs import find_orthanc, stop, wait_until
from service.sending.requestor import Address
from service.sending.scu import store
from service.settings import DicomWebSettings, PriorSettings
from tests.integration.serving import free_ports
from tests.service import readings
from tests.service.test_priors import film, header, of_rus_chn, report, years_ago
from tests.system.ohif import DICOMWEB_PLUGIN, orthanc_configuration
from tests.system.tools import tool

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[Address, str]]:
    """Yield where Orthanc takes instances and where it answers DICOMweb; carpus / geheim may ask it."""
    tool(find_orthanc() or "Orthanc", "orthanc")
    if not DICOMWEB_PLUGIN.exists():
        tool(str(DICOMWEB_PLUGIN), "orthanc-dicomweb")
    dicom_port, http_port = free_ports(2)
    path = orthanc_configuration(tmp_path, dicom_port, http_port)
    guarded = json.loads(path.read_text(encoding="utf-8"))
    guarded |= {"AuthenticationEnabled": True, "RegisteredUsers": {"carpus": "geheim"}}
    path.write_text(json.dumps(guarded), encoding="utf-8")
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([str(find_orthanc()), str(path)], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers(http_port), 60, "Orthanc to answer")
        yield Address("ARCHIVE", "127.0.0.1", dicom_port), f"http://127.0.0.1:{http_port}/dicom-web"
    finally:
        stop(process)


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/system", timeout=5)
    except urllib.error.HTTPError as refused:
        return refused.code == 401  # it asks who we are: it is there
    except OSError:
        return False
    return True


def test_orthanc_gives_earlier_reports_and_their_films_to_who_has_the_password(
    archive: tuple[Address, str], tmp_path: Path
) -> None:
    address, url = archive
    older, latest = report(years_ago(2), 8.2), report(years_ago(1), 9.4)
    kept = film(years_ago(1))
    store(address, [older, latest, kept], calling_ae_title="CARPUS")
    password = tmp_path / "password"
    password.write_text("geheim\n", encoding="utf-8")
    password.chmod(0o600)

    def look() -> priors.Lookup:
        web = DicomWebSettings(url=url, user="carpus", password_file=password)
        settings = PriorSettings(retrieve="web", timeout_seconds=60, web=web)
        return priors.find(priors.archive(address, "CARPUS", settings), header(film()), readings.reading(), settings)

    found = look()
    assert [round(prior.bone_age_years, 4) for prior in of_rus_chn(found)] == [8.2, 9.4]
    assert found.note == "2 earlier studies, 8 bone ages, 8 of them comparable"

    web = DicomWebSettings(url=url, user="carpus", password_file=password)
    asked = priors.archive(address, "CARPUS", PriorSettings(retrieve="web", timeout_seconds=60, web=web))
    got = asked.film(kept.StudyInstanceUID, kept.SeriesInstanceUID, kept.SOPInstanceUID)
    assert got is not None
    assert got.PixelData == kept.PixelData
    assert asked.film(kept.StudyInstanceUID, kept.SeriesInstanceUID, "2.25.404") is None

    password.write_text("wrong", encoding="utf-8")
    assert look().note == f"dicomweb-401: {url} answered 401 to the search for studies"
