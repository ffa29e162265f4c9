"""What each PACS gets: profiles, the choice of one while the service runs, and what a PACS accepts of it."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, SegmentationStorage
from sqlalchemy import Engine

from service import db, settings
from service.__main__ import cli
from service.conformance import RESULT_CLASSES, RESULT_OBJECTS
from service.errors import InvalidConfiguration, Permanent
from service.profiles import Profiles
from service.queue.jobs import ResultState, State
from service.reporting import result_set, results
from service.reporting.results import ResultContext
from service.result_profile import BUILT_IN, SERIES, ResultKind, ResultProfile
from service.sending import requestor, scu
from service.sending.negotiation import EVERY_CLASS, Negotiation, plan
from service.settings import Destination, Settings
from service.tables import ProfileChoice
from tests.fake_pacs import FakePacs as DicomPacs
from tests.service import readings
from tests.service.test_jobs import Clock
from tests.service.test_pipeline import PACS, House, hand
from tests.service.test_sr import AT, film

ALL = frozenset(EVERY_CLASS)
SR = {Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage}


@pytest.fixture
def house(tmp_path: Path, engine: Engine) -> House:
    return House(tmp_path, engine)


def address(pacs: DicomPacs) -> requestor.Address:
    return requestor.Address("PACS", "127.0.0.1", pacs.port)


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (set(), Comprehensive3DSRStorage),
        ({Comprehensive3DSRStorage}, ComprehensiveSRStorage),
        ({Comprehensive3DSRStorage, ComprehensiveSRStorage}, EnhancedSRStorage),
    ],
)
def test_a_report_is_written_in_the_best_class_the_pacs_accepts(refused: set[str], expected: str) -> None:
    made = plan(ResultProfile(), ALL - refused, PACS)
    assert made.report_class == expected
    assert made.kinds == ("SR", "SC", "GSPS", "SEG")
    assert made.left_out == ()


def test_what_the_pacs_does_not_accept_is_left_out_by_name() -> None:
    made = plan(BUILT_IN["everything"], ALL - {SegmentationStorage}, PACS)
    assert made.kinds == ("SR", "SC", "GSPS", "PDF", "KOS")
    assert made.left_out == ("SEG: Segmentation Storage (1.2.840.10008.5.1.4.1.1.66.4)",)


def test_a_pacs_that_accepts_nothing_of_the_profile_is_a_permanent_failure_that_names_the_classes() -> None:
    with pytest.raises(Permanent, match="Comprehensive SR Storage") as refusal:
        plan(BUILT_IN["report"], ALL - SR, PACS)
    assert refusal.value.code == "sop-class-refused"
    assert "Secondary Capture" not in str(refusal.value)


def test_a_rejection_goes_out_as_report_or_picture_whatever_the_profile_holds() -> None:
    assert plan(BUILT_IN["everything"], ALL, PACS, rejection=True).kinds == ("SR", "SC")
    assert plan(BUILT_IN["pictures"], ALL, PACS, rejection=True).kinds == ("SC",)
    assert plan(ResultProfile(objects=("PDF",)), ALL - SR, PACS, rejection=True).kinds == ("SC",)


def test_the_probe_hears_what_a_pacs_accepts_and_stores_nothing() -> None:
    with DicomPacs(refuse=[Comprehensive3DSRStorage, SegmentationStorage]) as pacs:
        accepted = scu.accepted_classes(address(pacs), EVERY_CLASS, calling_ae_title="CARPUS")
        assert accepted == ALL - {Comprehensive3DSRStorage, SegmentationStorage}
        assert (pacs.associations, pacs.requests) == (1, 0)


def test_the_probe_of_a_pacs_that_accepts_nothing_is_empty_and_an_unknown_caller_is_an_error() -> None:
    with DicomPacs(refuse=EVERY_CLASS) as pacs:
        assert scu.accepted_classes(address(pacs), EVERY_CLASS, calling_ae_title="CARPUS") == frozenset()
    with DicomPacs(callers=["OTHER"]) as pacs, pytest.raises(Permanent) as refusal:
        scu.accepted_classes(address(pacs), EVERY_CLASS, calling_ae_title="CARPUS")
    assert refusal.value.code == "calling-ae-refused"


class Answers:
    """A probe that answers as told and counts."""

    def __init__(self, answer: frozenset[str] = ALL) -> None:
        self.answer, self.asked = answer, 0

    def __call__(self, *_: Any, **__: Any) -> frozenset[str]:
        self.asked += 1
        return self.answer


def test_an_answer_is_remembered_until_it_is_old_or_the_pacs_moves(engine: Engine) -> None:
    clock, probe = Clock(), Answers()

    def negotiation() -> Negotiation:  # another process: nothing is kept but the database
        return Negotiation(engine, Settings(destinations=(PACS,), negotiation_hours=2), probe=probe, clock=clock)

    assert negotiation().accepted(PACS) == negotiation().accepted(PACS) == ALL
    assert probe.asked == 1
    negotiation().accepted(PACS.model_copy(update={"port": 105}))
    assert probe.asked == 2
    clock.pass_seconds(2 * 3600)
    negotiation().accepted(PACS.model_copy(update={"port": 105}))
    assert probe.asked == 3
    negotiation().forget(PACS)
    negotiation().accepted(PACS)
    assert probe.asked == 4


def test_that_nothing_is_accepted_is_not_remembered(engine: Engine) -> None:
    probe = Answers(frozenset())
    negotiation = Negotiation(engine, Settings(destinations=(PACS,)), probe=probe, clock=Clock())
    assert negotiation.accepted(PACS) == frozenset()
    probe.answer = ALL
    assert negotiation.accepted(PACS) == ALL


def test_a_film_goes_out_in_the_class_that_is_accepted_and_what_is_not_is_named(house: House) -> None:
    house.pacs.classes = ALL - {Comprehensive3DSRStorage, SegmentationStorage}
    job_id = house.receive(hand())
    assert house.run(job_id) == State.DELIVERED
    rows = {row.kind: row for row in house.jobs.results(job_id)}
    assert set(rows) == {"SR", "SC", "GSPS"}
    assert rows["SR"].SOPClassUID == ComprehensiveSRStorage
    told = [event.text for event in house.jobs.timeline(job_id) if event.code == "not accepted"]
    assert told == ["pacs does not take SEG: Segmentation Storage (1.2.840.10008.5.1.4.1.1.66.4)"]
    report = next(ds for ds in house.pacs.kept if ds.Modality == "SR")
    evidence = [
        instance.ReferencedSOPClassUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert SegmentationStorage not in evidence  # it must not refer to what is not there


def test_one_uid_never_stands_for_two_classes_of_report_and_the_other_objects_keep_theirs() -> None:
    contexts = [ResultContext("2.25.42", AT, report_class=uid) for uid in SR]

    def identifiers(kind: ResultKind) -> set[str]:
        return {results.reference(film(), kind, readings.reading(), each).SOPInstanceUID for each in contexts}

    assert len(identifiers("SR")) == 3
    assert len(identifiers("SC")) == 1


def test_a_pacs_that_accepts_nothing_costs_one_probe_and_no_store(house: House) -> None:
    house.pacs.classes = frozenset()
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    with pytest.raises(Permanent, match=r"PACS at 127.0.0.1:104 accepts none of: Comprehensive 3D SR Storage"):
        house.step(job_id)
    assert (house.pacs.probes, house.pacs.calls) == (1, 0)


def test_another_profile_holds_from_the_next_film_on_without_a_restart(house: House) -> None:
    first = house.receive(hand())
    house.run(first)
    Profiles(house.jobs.engine, house.pipeline.settings, clock=house.clock).use("pacs", "pictures-zh", by="test")
    second = house.receive(hand(seed=1))
    house.run(second)
    assert [row.kind for row in house.jobs.results(first)] == ["SR", "SC", "GSPS", "SEG"]
    assert [row.kind for row in house.jobs.results(second)] == ["SC", "PDF"]
    assert [ds.SeriesDescription for ds in house.pacs.kept[-2:]] == [
        "骨龄总览图 - 仅供科研，不用于临床",
        "骨龄报告（PDF） - 仅供科研，不用于临床",
    ]


def test_a_profile_changed_before_a_retry_sends_only_what_was_not_accepted(house: House) -> None:
    house.pacs.answer = lambda ds: Permanent("no", code="sop-class-refused") if ds.Modality == "SEG" else None
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    with pytest.raises(Permanent):
        house.step(job_id)
    before = {row.kind: row.SOPInstanceUID for row in house.jobs.results(job_id) if row.state == ResultState.ACCEPTED}
    Profiles(house.jobs.engine, house.pipeline.settings).use("pacs", "everything-zh")
    house.jobs.retry(job_id)
    house.clock.pass_seconds(3600)
    house.pacs.answer = lambda _ds: None
    house.pacs.kept.clear()
    assert house.run(job_id) == State.DELIVERED
    assert sorted(house.pacs.kinds) == ["DOC", "KO", "SEG"]
    after = {row.kind: row.SOPInstanceUID for row in house.jobs.results(job_id)}
    assert before.items() <= after.items()


def test_the_numbers_descriptions_and_picture_modality_of_a_profile_reach_the_objects(
    tmp_path: Path,
    engine: Engine,
) -> None:
    profile = {
        "objects": ["SR", "SC"],
        "picture_modality": "film",
        "series": {"SR": {"number": 77, "english": "AI bone age", "chinese": "智能骨龄"}},
    }
    destination = Destination.model_validate(
        {"name": "own", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "profile": profile}
    )
    own = House(tmp_path, engine, (destination,))
    own.run(own.receive(hand(kind="DX")))
    report, picture = own.pacs.kept
    assert (report.SeriesNumber, report.SeriesDescription) == (77, "AI bone age - For research, not for clinical use")
    assert (picture.SeriesNumber, picture.Modality) == (9602, "DX")


def test_a_choice_of_another_version_is_a_permanent_failure_that_says_what_to_do(engine: Engine) -> None:
    from sqlalchemy.orm import Session

    with Session(engine.execution_options(write=True)) as session, session.begin():
        row = ProfileChoice(
            destination="pacs", name="future", profile={"hologram": True}, chosen_at=Clock()(), chosen_by="test"
        )
        session.add(row)
    with pytest.raises(Permanent, match="'future'") as refusal:
        Profiles(engine, Settings(destinations=(PACS,))).of(PACS)
    assert "carpus profiles use pacs" in refusal.value.next_action


@pytest.mark.parametrize(
    ("profile", "fault"),
    [
        ({"objects": []}, "at least one"),
        ({"objects": ["SR", "SR"]}, "names one entry twice"),
        ({"objects": ["SR", "PNG"]}, "Input should be"),
        ({"series": {"SR": {"number": 0, "english": "a", "chinese": "a"}}}, "greater than or equal to 1"),
        ({"series": {"SR": {"number": 1, "english": "骨龄", "chinese": "骨龄"}}}, "ASCII"),
        ({"series": {"SR": {"number": 1, "english": "x" * 28, "chinese": "骨龄"}}}, "at most 27"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_with_its_fault(profile: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=fault):
        settings.load(profiles={"own": profile})


def test_an_unknown_profile_is_refused_at_start_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidConfiguration, match=r"'whatever'; known are default, everything"):
        settings.load(destinations=[{**PACS.model_dump(), "profile": "whatever"}])


def test_every_object_has_the_class_the_modality_and_the_series_that_the_statement_promises() -> None:
    context = ResultContext("2.25.42", AT, kinds=BUILT_IN["everything"].objects)
    made = result_set.of_reading(film(), readings.reading(), context, readings.image)
    assert set(made) == set(RESULT_OBJECTS)
    for kind, ds in made.items():
        assert ds.SOPClassUID in RESULT_CLASSES[kind]
        assert ds.Modality == RESULT_OBJECTS[kind].modality
        assert ds.SeriesNumber == SERIES[kind].number
        assert ds.SeriesDescription.startswith(SERIES[kind].english)


def test_every_kind_has_a_class_and_a_series_of_its_own() -> None:
    labels = ResultProfile().labels()
    assert set(labels) == set(RESULT_CLASSES)
    assert len({label.number for label in labels.values()}) == len(labels)


def test_the_command_lists_chooses_and_probes(tmp_path: Path) -> None:
    with DicomPacs(refuse=[SegmentationStorage]) as pacs:
        config = tmp_path / "carpus.yaml"
        config.write_text(
            f"data_directory: {tmp_path}\n"
            f"destinations: [{{name: pacs, ae_title: PACS, host: 127.0.0.1, port: {pacs.port}}}]\n"
            "profiles: {small: {objects: [SR], language: zh}}\n",
            encoding="utf-8",
        )

        def said(*arguments: str) -> str:
            done = CliRunner().invoke(cli, ["profiles", *arguments, "--config", str(config)], catch_exceptions=False)
            assert done.exit_code == 0
            return done.output

        assert "SR SC GSPS SEG" in said()
        assert said("use", "pacs", "small") == "pacs: small\n"
        assert "small (chosen)" in said()
        assert said("use", "pacs") == "pacs: default\n"
        probed = said("probe", "pacs")
        assert "sent: SR SC GSPS" in probed
        assert "not accepted: SEG: Segmentation Storage" in probed
        assert '"language": "zh"' in said("show", "small")
        assert db.version(db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}"))
