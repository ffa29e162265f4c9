"""A person's correction, from the command to the report in the PACS."""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import Dataset
from sqlalchemy import Engine

from models import registry, standards
from models.image import Image
from models.reading import Reading, Reason, Verdict
from models.regions import RUS
from models.scoring import Scoring
from service import db
from service.__main__ import cli
from service.amendments import Amendments, InvalidAmendment, describe, parse_stages, person_name
from service.errors import CarpusError, Permanent
from service.pipeline import _encoded
from service.queue.jobs import State, UnknownJob
from service.reporting import results, source, sr
from service.result_profile import BUILT_IN
from service.sending.negotiation import plan
from service.wrap import Patient
from tests.service import readings
from tests.service.test_pipeline import PACS, House, hand
from tests.service.test_sr import child, children, groups, reread, value

UP = {bone: standards.fine_levels(bone)[standards.fine_levels(bone).index(readings.middle(bone)) + 1] for bone in RUS}


class StagedReader:
    """Return the reading that the tables make."""

    def read(self, image: Image, sex: Any, chronological_age: float | None = None) -> Reading:
        known = readings.staged(sex=sex)
        facts = dataclasses.replace(known.image, rows=image.rows, columns=image.columns)
        return dataclasses.replace(known, image=facts, chronological_age_years=chronological_age)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def house(tmp_path: Path, engine: Engine) -> House:
    made = House(tmp_path, engine)
    made.pipeline = dataclasses.replace(made.pipeline, reader=StagedReader())
    return made


def description(sha256: str = readings.BUNDLE.sha256) -> registry.Description:
    return registry.Description(
        "default", "0.1", Path("default.json"), sha256, "", "RUS-CHN", Scoring(threshold_years=2.0), ""
    )


def amendments(house: House, **options: Any) -> Amendments:
    return Amendments(house.jobs, organisation="Children's Hospital", describe=lambda _: description(), **options)


def delivered(house: House, **options: Any) -> int:
    job_id = house.receive(hand(**options))
    assert house.run(job_id) == State.DELIVERED
    return job_id


def report(house: House, number: int = -1) -> Dataset:
    return reread([ds for ds in house.pacs.kept if ds.Modality == "SR"][number])


def test_a_corrected_stage_comes_back_as_a_verified_report_that_refers_to_the_first(house: House) -> None:
    job_id = delivered(house)
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei", verify=True)
    assert house.run(made) == State.DELIVERED
    first, second = report(house, 0), report(house)
    assert (first.VerificationFlag, first.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert (second.VerificationFlag, second.PreliminaryFlag, second.CompletionFlag) == ("VERIFIED", "FINAL", "COMPLETE")
    (observer,) = second.VerifyingObserverSequence
    assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == ("Li^Wei", "Children's Hospital")
    said = dt.datetime.strptime(observer.VerificationDateTime, "%Y%m%d%H%M%S.%f%z")
    assert said == house.jobs.amendment(made).at  # type: ignore[union-attr]
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID == second.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert document.ReferencedSOPInstanceUID == first.SOPInstanceUID != second.SOPInstanceUID
    assert document.ReferencedSOPClassUID == first.SOPClassUID


def test_the_values_of_the_algorithm_stay_beside_the_corrected_ones(house: House) -> None:
    job_id = delivered(house)
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, rejected=["pp2"], observer="Li^Wei")
    house.run(made)
    before, after = groups(report(house, 0)), groups(report(house))
    own, now = before["RUS-CHN F"], after["RUS-CHN F"]
    assert value(child(now, "AIBONEAGE")) == value(child(own, "85151-9")) != value(child(now, "85151-9"))
    assert value(child(now, "AISCORE")) == value(child(own, "TOTALSCORE")) < value(child(now, "TOTALSCORE"))
    bone = after["mc5"]
    assert child(bone, "STAGE").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{UP['mc5']}"
    assert child(bone, "AISTAGE").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{readings.middle('mc5')}"
    assert value(child(bone, "AISTAGEPROB")) == 0.9
    assert not children(bone, "STAGEPROB")
    assert child(bone, "STAGEORIGIN").ConceptCodeSequence[0].CodeValue == "BYOBSERVER"
    assert not children(after["mc3"], "STAGEORIGIN")
    assert child(after["pp2 rejected"], "REGIONFLAG").ConceptCodeSequence[0].CodeValue == "REJECTED"
    # A regression looks at the film; no correction of a stage changes it.
    assert value(child(after["rsna-cnn F"], "85151-9")) == value(child(before["rsna-cnn F"], "85151-9"))
    assert not children(after["rsna-cnn F"], "AIBONEAGE")


def test_the_conclusion_says_who_corrected_what(house: House) -> None:
    job_id = delivered(house)
    house.run(amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, rejected=["pp2"], observer="Li^Wei"))
    conclusion = child(child(report(house), "121076"), "121077").TextValue
    assert conclusion.startswith(
        f"Corrected by Wei Li (Children's Hospital): MC5 stage {readings.middle('mc5')} -> {UP['mc5']}; PP2 rejected."
    )
    assert "Before correction: RUS-CHN" in conclusion
    assert "not verified by a radiologist" in conclusion


def test_a_rejected_rus_region_leaves_the_totals_without_an_age_and_the_outline_out(house: House) -> None:
    job_id = delivered(house)
    house.run(amendments(house).amend(job_id, stages={}, rejected=["radius"], observer="Li^Wei"))
    found = groups(report(house))
    assert not children(found["RUS-CHN F"], "85151-9")
    assert "radius" in child(found["RUS-CHN F"], "121106").TextValue
    assert children(found["RUS-CHN F"], "AIBONEAGE")
    segmentation = [ds for ds in house.pacs.kept if ds.Modality == "SEG"][-1]
    assert [segment.TrackingID for segment in segmentation.SegmentSequence] == ["ulna"]


def test_a_correction_of_a_correction_adds_to_it_and_refers_to_it(house: House) -> None:
    job_id = delivered(house)
    second = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")
    house.run(second)
    third = amendments(house).amend(second, stages={"mp3": UP["mp3"]}, rejected=["pp2"], observer="Wang^Fang")
    house.run(third)
    fourth = amendments(house).amend(third, stages={"mc5": readings.middle("mc5")}, observer="Wang^Fang", verify=True)
    house.run(fourth)
    found = groups(report(house))
    assert child(found["mp3"], "STAGE").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{UP['mp3']}"
    assert child(found["mc5"], "STAGE").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{readings.middle('mc5')}"
    assert "pp2 rejected" in found
    predecessor = report(house).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == report(house, 2).SOPInstanceUID
    assert [house.jobs.get(each).revision for each in (job_id, second, third, fourth)] == [1, 2, 3, 4]


def test_verifying_without_a_change_keeps_every_number(house: House) -> None:
    job_id = delivered(house)
    house.run(amendments(house).amend(job_id, stages={}, observer="Li^Wei", verify=True))
    first, second = groups(report(house, 0)), groups(report(house))
    assert report(house).VerificationFlag == "VERIFIED"
    for name in ("RUS-CHN F", "TW3 F", "rsna-cnn F"):
        assert value(child(second[name], "85151-9")) == value(child(first[name], "85151-9"))
        assert not children(second[name], "AIBONEAGE")


def test_every_object_of_a_correction_is_new_and_a_repeat_of_its_delivery_is_not(house: House) -> None:
    job_id = delivered(house)
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")
    house.run(made)
    uids = [row.SOPInstanceUID for row in house.jobs.results(made)]
    assert not set(uids) & {row.SOPInstanceUID for row in house.jobs.results(job_id)}
    assert len(uids) == 4
    # Built once more from what is stored, every object has the identifiers and the bytes it had.
    built = {row.kind: (row.SOPInstanceUID, row.sha256) for row in house.jobs.results(made)}
    job = house.jobs.get(made)
    film = source.load(house.stores.identified.path(house.jobs.instance(job.instance_id).name))
    profile = BUILT_IN["default"]
    context = house.pipeline._context(job, PACS, profile, plan(profile, house.pacs.classes, PACS))
    again = sr.build(film, Reading.from_json(job.reading or ""), context)
    assert again.SOPInstanceUID == built["SR"][0]
    assert hashlib.sha256(_encoded(again)).hexdigest() == built["SR"][1]


def test_both_timelines_show_the_correction(house: House) -> None:
    job_id = delivered(house)
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei", verify=True)
    text = f"MC5 stage {readings.middle('mc5')} -> {UP['mc5']}; verified by Wei Li"
    (old,) = [event.text for event in house.jobs.timeline(job_id) if event.code == "amended"]
    (new,) = [event.text for event in house.jobs.timeline(made) if event.code == "amended"]
    assert old == f"by job {made}: {text}"
    assert new == f"revision 2, from job {job_id}: {text}"


def test_a_chinese_observer_is_written_and_read_back(house: House) -> None:
    job_id = delivered(house)
    house.run(
        amendments(house).amend(
            job_id, stages={"mc5": UP["mc5"]}, observer="李^伟", organisation="儿童医院", verify=True
        )
    )
    (observer,) = report(house).VerifyingObserverSequence
    assert (str(observer.VerifyingObserverName), observer.VerifyingOrganization) == ("李^伟", "儿童医院")
    assert report(house).SpecificCharacterSet == "ISO_IR 192"


def test_a_name_no_character_set_of_the_film_holds_fails_with_what_to_do(house: House) -> None:
    # Latin-1 film with a name outside ASCII: GB 2312 may stand beside it, Hangul may not.
    job_id = delivered(house, patient=Patient("Müller^Zoë", "P1", "F"), character_set="ISO_IR 100")
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="김^민수")
    with pytest.raises(Permanent, match="cannot be written in the character set") as caught:
        house.run(made)
    assert caught.value.code == "observer-not-writable"


def test_what_a_character_set_holds() -> None:
    assert results._writable("Müller", ("ISO_IR 100",))
    assert results._writable("Müller 李", ("ISO 2022 IR 100", "ISO 2022 IR 58"))
    assert not results._writable("李", ("ISO_IR 100",))
    assert not results._writable("Müller", ())
    assert not results._writable("Müller", ("ISO_IR 6",))
    assert results._writable("Li", ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {"mc5": "99"}}, "mc5 has no stage '99'"),
        ({"stages": {"femur": "5"}}, "'femur' is not on this film"),
        ({"stages": {}, "rejected": ["mc9"]}, "'mc9' is not on this film"),
        ({"stages": {"mc5": "5"}, "observer": " "}, "the observer is empty"),
        ({"stages": {"mc5": "5"}, "observer": "^^"}, "the observer is empty"),
        ({"stages": {"mc5": "5"}, "observer": "x" * 65}, "65 characters; 64 are allowed"),
        ({"stages": {"mc5": "5"}, "observer": "a^b^c^d^e^f"}, "5 components"),
        ({"stages": {"mc5": "5"}, "observer": "a\\b"}, "backslash"),
        ({"stages": {}}, "nothing is corrected"),
    ],
)
def test_bad_input_names_value_and_limit_and_changes_nothing(house: House, changes: dict[str, Any], said: str) -> None:
    job_id = delivered(house)
    with pytest.raises(InvalidAmendment) as caught:
        amendments(house).amend(job_id, **{"observer": "Li^Wei", **changes})
    assert said in str(caught.value)
    assert len(house.jobs.list()) == 1


def test_verifying_needs_an_organisation(house: House) -> None:
    job_id = delivered(house)
    nameless = dataclasses.replace(amendments(house), organisation="")
    with pytest.raises(InvalidAmendment, match="organisation is empty") as caught:
        nameless.amend(job_id, stages={}, observer="Li^Wei", verify=True)
    assert "--organisation" in caught.value.next_action


def test_a_job_that_is_not_delivered_cannot_be_corrected(house: House) -> None:
    job_id = house.receive(hand())
    house.step(job_id)
    with pytest.raises(InvalidAmendment, match="PREPARED and holds no reading"):
        amendments(house).amend(job_id, stages={"mc5": "5"}, observer="Li^Wei")
    house.step(job_id)
    with pytest.raises(UnknownJob, match="INFERRED; a reading is corrected once it has been delivered"):
        amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")


def test_a_film_that_was_not_read_and_an_unknown_job_cannot_be_corrected(house: House) -> None:
    refused = dataclasses.replace(house.reader, verdict=Verdict(False, (Reason("two-hands", "two"),)))
    house.pipeline = dataclasses.replace(house.pipeline, reader=refused)  # type: ignore[arg-type]
    job_id = house.receive(hand())
    assert house.run(job_id) == State.REJECTED
    with pytest.raises(InvalidAmendment, match="REJECTED and holds no reading"):
        amendments(house).amend(job_id, stages={"mc5": "5"}, observer="Li^Wei")
    with pytest.raises(UnknownJob, match="there is no job 99"):
        amendments(house).amend(99, stages={"mc5": "5"}, observer="Li^Wei")


def test_only_the_latest_reading_is_corrected_unless_the_correction_was_cancelled(house: House) -> None:
    job_id = delivered(house)
    made = amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")
    with pytest.raises(UnknownJob, match=f"was corrected by job {made}; correct that one"):
        amendments(house).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")
    house.jobs.cancel(made)
    again = amendments(house).amend(job_id, stages={"mp5": UP["mp5"]}, observer="Li^Wei")
    assert house.jobs.get(again).revision == 3


def test_a_reading_by_another_bundle_is_read_again_first(house: House) -> None:
    job_id = delivered(house)
    upgraded = dataclasses.replace(amendments(house), describe=lambda _: description("ab" * 32))
    with pytest.raises(InvalidAmendment, match="was read by bundle 3f3f3f3f3f3f, installed is abababababab") as caught:
        upgraded.amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei")
    assert caught.value.code == "other-bundle"
    assert f"carpus jobs requeue {job_id}" in caught.value.next_action


def test_stages_are_named_as_pairs_each_bone_once() -> None:
    assert parse_stages(["MC5=7", " radius = 5(2) "]) == {"mc5": "7", "radius": "5(2)"}
    for bad in ("mc5", "=7", "mc5="):
        with pytest.raises(InvalidAmendment, match="such as mc5=7"):
            parse_stages([bad])
    with pytest.raises(InvalidAmendment, match="two stages: 7 and 6"):
        parse_stages(["mc5=7", "MC5=6"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [("Li^Wei", "Li^Wei"), ("Dr  Anna\tSchmidt", "Dr Anna Schmidt^^^^"), ("Li^Wei=李^伟", "Li^Wei=李^伟")],
)
def test_a_name_without_components_becomes_the_first(given: str, kept: str) -> None:
    assert person_name(given) == kept


def test_the_command_ends_with_the_error_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))
    run = CliRunner().invoke(cli, ["amend", "7", "--stage", "mc5=7", "--observer", "Li^Wei"])
    assert isinstance(run.exception, CarpusError)
    assert str(run.exception) == "there is no job 7"
    missing = CliRunner().invoke(cli, ["amend", "7", "--stage", "mc5=7"])
    assert missing.exit_code == 2
    assert "--observer" in missing.output


def test_the_command_corrects_a_delivered_job(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))
    shipped = describe("default")
    monkeypatch.setattr(readings, "BUNDLE", shipped.identity)
    job_id = delivered(house)
    arguments = ["amend", str(job_id), "--stage", f"mc5={UP['mc5']}", "--reject-region", "pp2", "--observer", "Li^Wei"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    assert f"delivers the corrected reading of job {job_id}" in run.output
    assert "RUS-CHN, girls" in run.output
    (made,) = [job for job in house.jobs.list() if job.id != job_id]
    row = house.jobs.amendment(made.id)
    assert row is not None
    assert (row.stages, row.rejected, row.verified) == ({"mc5": UP["mc5"]}, ["pp2"], False)
