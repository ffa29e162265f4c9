"""Earlier bone ages over DICOMweb: found as over DIMSE, and what a wrong, slow or hostile server costs."""

import base64
import io
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service import log, priors
from service.errors import CarpusError
from service.sending import dicomweb
from service.sending.requestor import Address
from service.settings import DicomWebSettings, PriorSettings
from tests import certificates
from tests.fake_dicomweb import BOUNDARY, Answer, FakeDicomWeb, Spoil
from tests.service import readings
from tests.service.test_priors import film, header, of_rus_chn, report, years_ago

NOWHERE = Address("PACS", "127.0.0.1", 1)  # nobody asks over DIMSE here
EARLIER = report(years_ago(1), 9.4)


def settings(archive: FakeDicomWeb, *, seconds: float = 20, **web: Any) -> PriorSettings:
    return PriorSettings(retrieve="web", timeout_seconds=seconds, web=DicomWebSettings(url=archive.url, **web))


def look(archive: FakeDicomWeb, *, seconds: float = 20, **web: Any) -> priors.Lookup:
    asked = settings(archive, seconds=seconds, **web)
    return priors.find(priors.archive(NOWHERE, "CARPUS", asked), header(film()), readings.reading(), asked)


def secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_earlier_reports_come_back_the_latest_last() -> None:
    with FakeDicomWeb([report(years_ago(2), 8.2), EARLIER, film(years_ago(1))]) as archive:
        found = look(archive)
    assert [round(prior.bone_age_years, 4) for prior in of_rus_chn(found)] == [8.2, 9.4]
    assert found.note == "2 earlier studies, 8 bone ages, 8 of them comparable"


def test_only_this_patient_counts_however_loosely_the_server_matches() -> None:
    stranger = report(years_ago(1), 5.0)
    stranger.PatientID = "MRN-70"
    with FakeDicomWeb([stranger, report(years_ago(3), 7.0)], loose=True) as archive:
        assert [prior.bone_age_years for prior in of_rus_chn(look(archive))] == [7.0]


def test_a_film_comes_back_as_it_is_kept_and_one_that_is_gone_as_none() -> None:
    kept = film(years_ago(1))
    with FakeDicomWeb([kept]) as archive:
        asked = priors.archive(NOWHERE, "CARPUS", settings(archive))
        where = (kept.StudyInstanceUID, kept.SeriesInstanceUID)
        got = asked.film(*where, kept.SOPInstanceUID)
        assert got is not None
        assert got.PixelData == kept.PixelData
        assert asked.film(*where, "2.25.404") is None


@pytest.mark.parametrize("by", ["token", "password"])
def test_token_and_password_are_read_from_a_file_and_a_wrong_one_is_named(tmp_path: Path, by: str) -> None:
    word = "a.token" if by == "token" else "pässwort"  # a token is ASCII (RFC 6750 2.1)
    expected = f"Bearer {word}" if by == "token" else f"Basic {base64.b64encode(f'carpus:{word}'.encode()).decode()}"
    path = secret(tmp_path, f"{word}\n")
    web = {"token_file": path} if by == "token" else {"user": "carpus", "password_file": path}
    with FakeDicomWeb([EARLIER], authorization=expected) as archive:
        assert of_rus_chn(look(archive, **web))
        path.write_text("wrong", encoding="utf-8")
        found = look(archive, **web)
    assert found.priors == ()
    assert found.note == f"dicomweb-401: {archive.url} answered 401 to the search for studies"


def test_a_secret_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    with FakeDicomWeb([EARLIER]) as archive:
        assert "mode 0604" in look(archive, token_file=secret(tmp_path, "token", 0o604)).note
        assert archive.asked == []


def test_tls_is_believed_by_the_authority_of_the_settings_alone() -> None:
    at = certificates.folder()
    with FakeDicomWeb([EARLIER], certificate=at / "PACS.pem", key=at / "PACS.key") as archive:
        assert of_rus_chn(look(archive, authorities=at / "authority.pem"))
        for other in ({"authorities": certificates.strangers() / "authority.pem"}, {}):
            found = look(archive, **other)
            assert found.note == f"dicomweb-certificate: the certificate of {archive.url} is not believed"


def spoilt(where: str, status: int = 200, kind: str = "", body: bytes | None = None) -> Spoil:
    """Replace an answer to paths that end so; what is empty stays."""

    def change(path: str, answer: Answer) -> Answer:
        if not path.endswith(where) and not (where == "retrieval" and not path.endswith(("studies", "series"))):
            return answer
        return status, kind or answer[1], answer[2] if body is None else body

    return change


MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
BAD: dict[str, tuple[Spoil, str]] = {
    "not allowed": (spoilt("studies", 403), "dicomweb-403"),
    "wrong address": (spoilt("studies", 404), "dicomweb-404"),
    "broken server": (spoilt("series", 500), "dicomweb-500"),
    "redirect to a log-in page": (spoilt("studies", 302), "dicomweb-302"),
    "a page instead of JSON": (spoilt("studies", 200, "text/html", b"<html>Welcome</html>"), "dicomweb-unreadable"),
    "half of the JSON": (spoilt("series", 200, "", b'[{"0020000E": {"vr": "UI", "Val'), "dicomweb-unreadable"),
    "a page instead of parts": (spoilt("retrieval", 200, "text/html", b"<html>Welcome</html>"), "dicomweb-unreadable"),
    "parts that are no DICOM": (
        spoilt("retrieval", 200, MULTIPART, f"--{BOUNDARY}\r\n\r\nnothing\r\n--{BOUNDARY}--".encode()),
        "dicomweb-unreadable",
    ),
    "a part that never ends": (
        spoilt("retrieval", 200, MULTIPART, f"--{BOUNDARY}\r\n\r\nDICM".encode()),
        "dicomweb-unreadable",
    ),
    "another boundary": (spoilt("retrieval", 200, MULTIPART.replace("part", "dart")), "dicomweb-unreadable"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_server_leaves_no_priors_and_a_note_without_the_patient(fault: str) -> None:
    spoil, code = BAD[fault]
    with FakeDicomWeb([EARLIER], spoil=spoil) as archive:
        found = look(archive)
    assert found.priors == ()
    assert found.note.startswith(f"{code}: {archive.url} answered")
    assert "MRN-7" not in found.note


@pytest.mark.parametrize(
    "body", [b"{}", b"null", b'"text"', b"[1, null, []]", b'[{"0020000D": 7}]', b'[{"0020000D": {"Value": [{}]}}]', b""]
)
def test_json_of_another_shape_is_no_study(body: bytes) -> None:
    with FakeDicomWeb([EARLIER], spoil=spoilt("studies", 200, "", body)) as archive:
        found = look(archive)
    assert found.priors == ()
    assert "MRN-7" not in found.note


def test_a_server_that_drips_costs_its_time_limit_and_no_more() -> None:
    with FakeDicomWeb([EARLIER], drip_seconds=0.05) as archive:
        began = time.monotonic()
        found = look(archive, seconds=1)
        assert time.monotonic() - began < 6  # of one second that was allowed; its headers alone take seven
    assert found.note == f"priors-timeout: {archive.url} did not answer within 1 s"


def test_a_server_that_is_away_is_named() -> None:
    with FakeDicomWeb([]) as archive:
        pass
    assert look(archive).note.startswith(f"dicomweb-unreachable: {archive.url} cannot be reached")


def test_an_answer_beyond_the_limit_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MAXIMUM_BYTES", 10_000)
    with FakeDicomWeb([EARLIER]) as archive:
        assert look(archive).note == "dicomweb-too-large: the answer has more than 10000 bytes"


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({"url": "ftp://pacs/dicom-web"}, "String should match pattern"),
        ({"url": "https://carpus:secret@pacs/dicom-web"}, "String should match pattern"),
        ({"url": "http://pacs/dicom-web", "token_file": "/run/token"}, "must be an https address"),
        ({"url": "https://pacs/dicom-web", "user": "carpus"}, "belong together"),
        ({"url": "https://pacs/x", "user": "a", "password_file": "/p", "token_file": "/t"}, "one is needed"),
    ],
)
def test_unsafe_settings_are_refused_at_the_start(web: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DicomWebSettings(**web)


def test_the_way_and_its_settings_belong_together() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        PriorSettings(retrieve="web")
    with pytest.raises(ValidationError, match="belong together"):
        PriorSettings(web=DicomWebSettings(url="https://pacs/dicom-web"))


def test_no_error_names_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault inside the library, whose text holds the address with its query, reaches nobody as it is."""
    with FakeDicomWeb([EARLIER], spoil=spoilt("studies", 418)) as archive:
        asked = priors.archive(NOWHERE, "CARPUS", settings(archive))
        with pytest.raises(CarpusError) as caught:
            asked.report_series("MRN-7")
    assert "MRN-7" not in f"{caught.value} {caught.value.next_action} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


def test_no_log_line_of_a_library_names_the_patient() -> None:
    """A header that is none has urllib3 warn with the address, and with it the query."""

    def spoil(_path: str, answer: Answer) -> Answer:
        return answer[0], f"{answer[1]}\r\nno header at all", answer[2]

    written = io.StringIO()
    log.configure("INFO", stream=written)
    with FakeDicomWeb([EARLIER], spoil=spoil) as archive:
        priors.archive(NOWHERE, "CARPUS", settings(archive)).report_series("MRN-7")
        assert "MRN-7" in "".join(archive.asked)
    assert "MRN-7" not in written.getvalue()
    assert "urllib3" not in written.getvalue()
