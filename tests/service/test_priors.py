"""Earlier bone ages: found at an archive over real associations, compared only with their like, kept with the job."""

import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import Dataset, dcmread
from pynetdicom.dimse_primitives import C_GET
from sqlalchemy import Engine

from models.image import Image
from models.reading import Reading
from service import db, priors
from service.errors import InvalidInstance, Retryable
from service.queue.jobs import State
from service.reporting import source, sr
from service.reporting.amendment import Amendment, Predecessor
from service.reporting.history import Prior, study_date, velocities
from service.reporting.results import ResultContext
from service.reporting.source import Source
from service.sending import query, requestor, retrieval
from service.sending.retrieval import GET, MOVE, Archive, Found
from service.settings import Destination, PriorSettings
from service.wrap import Patient
from tests.factories import encoded, instance
from tests.fake_archive import FakeArchive
from tests.integration.serving import free_ports
from tests.service import readings
from tests.service.test_pipeline import House
from tests.service.test_sr import child, children, groups, reread, value

CHILD = Patient("TEST^CHILD", "MRN-7", "F", dt.date(2016, 5, 4))
NOW = dt.datetime(2026, 11, 2, 9, 30, tzinfo=dt.UTC)
ASK = PriorSettings(timeout_seconds=20)
SIZE = {"rows": readings.ROWS, "columns": readings.COLUMNS, "kind": "DX"}


def film(at: dt.datetime = NOW, patient: Patient = CHILD, **options: Any) -> Dataset:
    return instance(patient=patient, at=at, study=f"{patient.PatientID} {at}", **{**SIZE, **options})


def header(ds: Dataset) -> Source:
    return source.normalise(dcmread(BytesIO(encoded(ds))))


def report(
    at: dt.datetime, age: float, *, sha256: str = readings.BUNDLE.sha256, patient: Patient = CHILD, **changes: Any
) -> Dataset:
    """Return the report of an earlier film: RUS-CHN read `age`, the other methods what the fixture says."""
    known = readings.reading(**changes)
    methods = tuple(
        dataclasses.replace(m, bone_age_years=age, interval_years=None) if m.name == "RUS-CHN" else m
        for m in known.methods
    )
    made = dataclasses.replace(
        known,
        methods=methods,
        bundle=dataclasses.replace(readings.BUNDLE, sha256=sha256),
        chronological_age_years=round((at - NOW).days / 365.25 + 10.5, 2),
    )
    return reread(sr.build(header(film(at, patient)), made, ResultContext("2.25.9", at)))


def years_ago(years: float) -> dt.datetime:
    return NOW - dt.timedelta(days=365.25 * years)


def look(archive: FakeArchive, settings: PriorSettings = ASK, **options: Any) -> priors.Lookup:
    asked = priors.archive(archive.address, "CARPUS", settings)
    return priors.find(asked, header(film()), readings.reading(), settings, **options)


def of_rus_chn(found: priors.Lookup) -> list[Prior]:
    return [prior for prior in found.priors if prior.method == "RUS-CHN"]


def test_earlier_reports_come_back_by_c_get_the_latest_last() -> None:
    with FakeArchive([report(years_ago(2), 8.2), report(years_ago(1), 9.4), film(years_ago(1))]) as archive:
        found = look(archive)
    assert [round(prior.bone_age_years, 4) for prior in of_rus_chn(found)] == [8.2, 9.4]
    assert [prior.study_date for prior in of_rus_chn(found)] == [years_ago(2).date(), years_ago(1).date()]
    assert all(prior.comparable and not prior.remark for prior in of_rus_chn(found))
    assert of_rus_chn(found)[1].chronological_age_years == 9.5
    assert found.note == "2 earlier studies, 8 bone ages, 8 of them comparable"


def test_earlier_reports_come_back_by_c_move_to_a_listener_of_our_own() -> None:
    (port,) = free_ports(1)
    settings = PriorSettings(retrieve="move", timeout_seconds=20, move_port=port)
    knows = {"CARPUS-PRIORS": ("127.0.0.1", port)}
    with FakeArchive([report(years_ago(1), 9.4)], knows=knows) as archive:
        assert [prior.bone_age_years for prior in of_rus_chn(look(archive, settings))] == [9.4]


def test_a_pacs_that_does_not_know_our_listener_is_told_what_to_register() -> None:
    (port,) = free_ports(1)
    settings = PriorSettings(retrieve="move", timeout_seconds=20, move_port=port)
    with FakeArchive([report(years_ago(1), 9.4)]) as archive:
        asked = priors.archive(archive.address, "CARPUS", settings)
        with pytest.raises(Retryable, match="0xA801") as caught:
            asked.reports(asked.report_series("MRN-7"))
        assert f"CARPUS-PRIORS with the address of this machine and port {port}" in caught.value.next_action
        assert look(archive, settings).priors == ()


@pytest.mark.parametrize("key", ["SeriesDescription", "StudyDate", "Modality", "PatientID"])
def test_answers_that_leave_out_a_return_key_are_taken_all_the_same(key: str) -> None:
    with FakeArchive([report(years_ago(1), 9.4)], leave_out=[key]) as archive:
        assert [prior.bone_age_years for prior in of_rus_chn(look(archive))] == [9.4]


def test_only_this_patient_counts_however_loosely_the_archive_matches() -> None:
    namesake = report(years_ago(1), 5.0, patient=Patient("TEST^OTHER", "MRN-70", "F", dt.date(2016, 5, 4)))
    twin = report(years_ago(2), 6.0, patient=dataclasses.replace(CHILD, PatientBirthDate=dt.date(2014, 1, 1)))
    with FakeArchive([namesake, twin, report(years_ago(3), 7.0)], loose=True) as archive:
        assert [prior.bone_age_years for prior in of_rus_chn(look(archive))] == [7.0]


def test_the_present_study_later_studies_and_other_reports_are_no_priors() -> None:
    other = report(years_ago(1), 9.0)
    other.SeriesDescription = "CT Chest report"
    with FakeArchive([report(NOW, 9.9), report(NOW + dt.timedelta(days=90), 11.0), other]) as archive:
        found = look(archive)
        assert found.priors == ()
        assert archive.retrieved == 0


def test_a_corrected_report_stands_for_the_one_it_replaced() -> None:
    at = years_ago(1)
    first = report(at, 9.4)
    predecessor = Predecessor(first.SOPClassUID, first.SOPInstanceUID, first.SeriesInstanceUID)
    known = readings.staged()
    amendment = Amendment("Li^Wei", "", at, False, known, {"mc5": "6"}, (), predecessor)
    context = ResultContext("2.25.9", at, revision=2, amendment=amendment)
    corrected = reread(sr.build(header(film(at)), known, context))
    with FakeArchive([first, corrected]) as archive:
        found = of_rus_chn(look(archive))
    assert [prior.SOPInstanceUID for prior in found] == [corrected.SOPInstanceUID]


def test_an_age_by_other_weights_another_method_or_curve_is_shown_and_not_compared() -> None:
    elsewhere = [report(years_ago(1), 9.4, sha256="ab" * 32), report(years_ago(2), 8.0, sex="M")]
    with FakeArchive(elsewhere) as archive:
        found = look(archive)
    remarks = {prior.study_date: prior.remark for prior in of_rus_chn(found)}
    assert remarks[years_ago(1).date()] == "other-bundle"
    assert remarks[years_ago(2).date()] == "other-sex"
    assert not any(prior.comparable for prior in found.priors)
    regression = dataclasses.replace(readings.reading(), methods=readings.reading().methods[:1])
    with FakeArchive([report(years_ago(1), 9.4)]) as archive:
        asked = priors.archive(archive.address, "CARPUS", ASK)
        compared = priors.find(asked, header(film()), regression, ASK)
    assert {p.method: p.remark for p in compared.priors}["TW3"] == "other-method"


@dataclasses.dataclass
class Again:
    """A Reader of the present weights that reads 8.8 years from any film."""

    asked: list[tuple[Image, str | None, float | None]] = dataclasses.field(default_factory=list)

    def read(self, image: Image, sex: Any, chronological_age: float | None = None) -> Reading:
        self.asked.append((image, sex, chronological_age))
        known = readings.reading()
        first, *rest = known.methods
        return dataclasses.replace(known, methods=(dataclasses.replace(first, bone_age_years=8.8), *rest))


def test_a_film_that_other_weights_read_is_read_again_where_the_archive_has_it() -> None:
    at, reader = years_ago(1), Again()
    asked_again: dict[str, Callable[[], Any]] = {"reader": lambda: reader}
    settings = PriorSettings(timeout_seconds=20, reread=True)
    old = report(at, 9.4, sha256="ab" * 32)
    with FakeArchive([old, film(at)]) as archive:
        (prior,) = of_rus_chn(look(archive, settings, **asked_again))
        assert (prior.bone_age_years, prior.comparable, prior.remark) == (8.8, True, "reread")
        assert prior.bundle_sha256 == readings.BUNDLE.sha256
        (asked,) = reader.asked
        assert (asked[0].rows, asked[1]) == (readings.ROWS, "F")
        assert asked[2] == pytest.approx((at.date() - dt.date(2016, 5, 4)).days / 365.25)
    with FakeArchive([old]) as archive:  # the film is gone
        (prior,) = of_rus_chn(look(archive, settings, **asked_again))
        assert (prior.bone_age_years, prior.comparable, prior.remark) == (9.4, False, "other-bundle")
    with FakeArchive([old, film(at)]) as archive:  # and without leave nothing is read again
        (prior,) = of_rus_chn(look(archive, ASK, **asked_again))
        assert not prior.comparable


def test_a_slow_archive_costs_its_time_limit_and_no_more() -> None:
    with FakeArchive([report(years_ago(1), 9.4)] * 3, seconds=2) as archive:
        began = time.monotonic()
        found = look(archive, PriorSettings(timeout_seconds=1))
        assert time.monotonic() - began < 15  # of one second that was allowed; a loaded machine takes longer to notice
    assert found.priors == ()
    assert found.note.split(":")[0] in ("priors-timeout", "association-aborted")


class Endless(FakeArchive):
    """Answers without end; what follows the 40th second would only hold up a test that fails."""

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        began = time.monotonic()
        while time.monotonic() - began < 40 and not event.assoc.is_aborted:
            time.sleep(0.01)
            yield 0xFF00, event.identifier
        yield 0x0000, None

    def _get(self, event: Any) -> Iterator[Any]:
        began = time.monotonic()
        answer: Any = C_GET()
        answer.MessageIDBeingRespondedTo, answer.Status = event.request.MessageID, 0xFF00
        answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        answer.NumberOfRemainingSuboperations = 1
        while time.monotonic() - began < 40 and not event.assoc.is_aborted:
            time.sleep(0.01)
            event.assoc.dimse.send_msg(answer, event.context.context_id)
        yield 0


ASKED: dict[str, Callable[[Archive], Any]] = {
    "the search": lambda archive: archive.report_series("MRN-7"),
    "the retrieval": lambda archive: archive.reports([Found("1.2", "1.3")]),
    "the read-back": lambda archive: query.instances(
        archive.address, [("1.2", "1.3")], calling_ae_title="CARPUS", timeout_seconds=1
    ),
}


@pytest.mark.parametrize("asked", ASKED)
def test_an_archive_that_answers_without_end_costs_its_time_limit_and_no_more(asked: str) -> None:
    """Each answer came in time, so that neither delivery nor confirmation went on, and all of them were kept in memory."""
    with Endless([]) as peer:
        archive = Archive(peer.address, "CARPUS", PriorSettings(timeout_seconds=1), time.monotonic() + 1)
        began = time.monotonic()
        with pytest.raises(Retryable, match="did not answer"):
            ASKED[asked](archive)
        assert time.monotonic() - began < 20


def test_what_one_look_up_keeps_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = [report(years_ago(1), 9.4), report(years_ago(2), 8.4)]
    with FakeArchive(earlier) as archive:
        assert len({prior.StudyInstanceUID for prior in look(archive).priors}) == 2
        monkeypatch.setattr(retrieval, "MAXIMUM_BYTES", len(encoded(earlier[0])) * 3 // 2)
        found = look(archive)
    assert found.priors == ()
    assert found.note.startswith("status-")  # of the archive: we refused the second report


@pytest.mark.parametrize("service", [GET, "1.2.840.10008.5.1.4.1.2.2.1"])
def test_an_archive_without_the_service_leaves_no_priors_and_a_note(service: str) -> None:
    with FakeArchive([report(years_ago(1), 9.4)], without=[service]) as archive:
        found = look(archive)
    assert found.priors == ()
    assert found.note.startswith("sop-class-refused: ")


def test_an_archive_that_is_away_leaves_no_priors_and_a_note() -> None:
    (port,) = free_ports(1)
    address = requestor.Address("ARCHIVE", "127.0.0.1", port)
    found = priors.find(priors.archive(address, "CARPUS", ASK), header(film()), readings.reading(), ASK)
    assert found == priors.Lookup((), found.note)
    assert found.note.startswith("peer-unreachable: ")


def test_a_port_that_is_taken_is_named() -> None:
    with FakeArchive([report(years_ago(1), 9.4)]) as archive:
        settings = PriorSettings(retrieve="move", timeout_seconds=20, move_port=archive.address.port)
        assert look(archive, settings).note.startswith("priors-port: cannot listen on 127.0.0.1:")


def test_a_film_without_patient_or_date_is_not_looked_up() -> None:
    nameless = header(film(without=["PatientID"]))
    with FakeArchive([report(years_ago(1), 9.4)]) as archive:
        asked = priors.archive(archive.address, "CARPUS", ASK)
        assert priors.find(asked, nameless, readings.reading(), ASK).note.endswith("states no PatientID")
        assert archive.retrieved == 0


def test_a_damaged_or_foreign_report_is_passed_over() -> None:
    damaged = report(years_ago(1), 9.4)
    for item in groups(damaged)["RUS-CHN F"].ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "85151-9":
            item.MeasuredValueSequence[0].FloatingPointValue = 999.0
    assert [p.method for p in priors.parse(damaged)].count("RUS-CHN") == 0
    empty = Dataset()
    assert list(priors.parse(empty)) == []
    bare = report(years_ago(1), 9.4)
    del bare.ContentSequence
    assert list(priors.parse(bare)) == []
    with pytest.raises(InvalidInstance, match="999 years; 0 to 30"):
        prior(years_ago(1).date(), 999.0)


def test_what_is_kept_with_the_job_comes_back_as_it_was() -> None:
    found = tuple(priors.parse(report(years_ago(1), 9.4)))
    assert found
    assert priors.from_stored(priors.to_stored(found)) == found


def prior(date: dt.date | None, age: float, **changes: Any) -> Prior:
    given = {"comparable": True, "remark": "", "method": "RUS-CHN", "sex": "F", **changes}
    uids = {
        "SOPClassUID": "1.2",
        "SOPInstanceUID": f"1.2.{date}",
        "SeriesInstanceUID": "1.3",
        "StudyInstanceUID": "1.4",
    }
    return Prior(date, given.pop("method"), given.pop("sex"), age, 9.0, "3f" * 32, **given, **uids)


def test_the_velocity_is_the_change_over_the_time_since_the_latest_comparable_film() -> None:
    today = dt.date(2026, 11, 2)
    earlier = [
        prior(dt.date(2024, 11, 2), 8.0),
        prior(dt.date(2025, 11, 2), 9.0312345),  # 365 days before
        prior(dt.date(2026, 1, 2), 9.9, comparable=False, remark="other-bundle"),
        prior(dt.date(2026, 10, 2), 10.4),  # a month ago: less than the reading error
        prior(None, 3.0, comparable=False, remark="undated"),
    ]
    (velocity,) = velocities(readings.reading(), earlier, today)
    assert velocity.prior.study_date == dt.date(2025, 11, 2)
    assert velocity.change_years == pytest.approx(1.5)  # 10.5312345 - 9.0312345
    assert velocity.per_year == pytest.approx(1.5 * 365.25 / 365)
    assert velocities(readings.reading(), earlier, None) == ()
    assert velocities(readings.reading(), earlier[-1:], today) == ()


def test_the_report_lists_earlier_ages_and_gives_the_velocity() -> None:
    present = header(film())
    assert study_date(present) == NOW.date()
    earlier = (
        prior(dt.date(2024, 11, 2), 7.5, comparable=False, remark="other-bundle"),
        prior(dt.date(2025, 11, 2), 9.0312345),
    )
    ds = reread(sr.build(present, readings.reading(), ResultContext("2.25.9", NOW, priors=earlier)))
    listed = children(child(ds, "EARLIERAGES"), "EARLIERAGE")
    assert [value(item) for item in listed] == [7.5, 9.0312345]
    assert [child(item, "111060").Date for item in listed] == ["20241102", "20251102"]
    assert [child(item, "COMPARABLE").ConceptCodeSequence[0].CodeValue for item in listed] == ["CMPVERSION", "CMPSAME"]
    velocity = child(groups(ds)["RUS-CHN F"], "AGEVELOCITY")
    assert value(velocity) == pytest.approx(1.5 * 365.25 / 365)
    assert value(child(velocity, "ELAPSED")) == pytest.approx(12 * 365 / 365.25)
    assert not children(groups(ds)["TW3 F"], "AGEVELOCITY")
    conclusion = child(child(ds, "121076"), "121077").TextValue
    assert "Since 2025-11-02 (RUS-CHN): bone age 9.0 to 10.5 years in 1.0 years, +1.5 years per year." in conclusion


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "Earlier bone age of 2025-11-02 (RUS-CHN) 9.0 years: other version, not comparable."),
        ("zh", "既往骨龄（2025-11-02，RUS-CHN）9.0岁：版本不同，不可比较。"),
    ],
)
def test_an_incomparable_age_is_named_as_such(language: Any, said: str) -> None:
    earlier = (prior(dt.date(2025, 11, 2), 9.0, comparable=False, remark="other-bundle"),)
    context = ResultContext("2.25.9", NOW, language, priors=earlier)
    ds = reread(sr.build(header(film()), readings.reading(), context))
    assert said in child(child(ds, "121076"), "121077").TextValue


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    yield engine
    engine.dispose()


def test_a_delivery_looks_priors_up_once_and_a_repeat_makes_the_same_report(tmp_path: Path, engine: Engine) -> None:
    with FakeArchive([report(years_ago(1), 9.4)]) as archive:
        host, port = archive.address.host, archive.address.port
        pacs = Destination(name="pacs", ae_title="ARCHIVE", host=host, port=port, priors=ASK)
        house = House(tmp_path, engine, (pacs,))
        house.pacs.answer = lambda ds: Retryable("full") if ds.Modality == "SR" else None
        job_id = house.receive(film())
        house.step(job_id)
        house.step(job_id)
        with pytest.raises(Retryable):
            house.step(job_id)
        first = {row.kind: row.sha256 for row in house.jobs.results(job_id)}
        archive.instances.append(report(years_ago(2), 8.0))  # known only later
    (event,) = [event for event in house.jobs.timeline(job_id) if event.code == "priors"]
    assert event.text == "pacs: 1 earlier studies, 4 bone ages, 4 of them comparable"
    house.jobs.retry(job_id)  # by now nobody answers at the archive
    house.pacs.answer = lambda _ds: None
    assert house.step(job_id) == State.DELIVERED
    assert {row.kind: row.sha256 for row in house.jobs.results(job_id)} == first
    delivered = next(ds for ds in house.pacs.kept if ds.Modality == "SR")
    assert [value(item) for item in children(child(delivered, "EARLIERAGES"), "EARLIERAGE")][:1] == [9.4]


def test_without_the_setting_nobody_is_asked(tmp_path: Path, engine: Engine) -> None:
    house = House(tmp_path, engine)
    job_id = house.receive(film())
    assert house.run(job_id) == State.DELIVERED
    assert house.jobs.priors(job_id, "pacs") is None
    assert "priors" not in [event.code for event in house.jobs.timeline(job_id)]


def test_c_move_without_a_port_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="no move_port is given"):
        PriorSettings(retrieve="move")
    assert MOVE
