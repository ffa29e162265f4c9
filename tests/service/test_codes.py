from pathlib import Path

import pytest

from models.regions import REGIONS
from service.reporting import codes

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "codes.md"


def test_the_document_holds_the_table_of_codes() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == codes.markdown(), (
        "renew it: python -m service.reporting.codes > docs/codes.md"
    )


def test_every_region_has_a_site_and_every_bone_a_code_of_its_own() -> None:
    assert set(codes.SITES) == set(REGIONS)
    assert set(codes.BONES) == set(REGIONS) - {"carpus"}
    assert len({concept.value for concept in codes.BONES.values()}) == len(codes.BONES)


def test_the_fma_numbers_are_those_of_the_part_table() -> None:
    known = {"radius": "23463", "ulna": "23466", "mc1": "23899", "mc5": "23903", "pp1": "23918", "pp5": "23922"}
    known |= {"mp2": "23933", "mp5": "23936", "dp1": "23945", "dp5": "23949"}
    assert {name: codes.BONES[name].value for name in known} == known


def test_private_concepts_have_both_languages_and_english_is_ascii() -> None:
    for concept in codes.table():
        assert concept.english.isascii(), concept
        if concept.scheme == codes.PRIVATE_SCHEME:
            assert concept.chinese, concept


def test_the_stage_letter_follows_from_the_stage_number() -> None:
    assert codes.STAGES["5(2)"].english == "RUS-CHN stage 5(2) (TW3 stage F)"
    assert "(TW3 A)" in codes.STAGES["0"].english


@pytest.mark.parametrize("fault", [{"value": "X" * 17}, {"value": ""}, {"english": ""}, {"chinese": "字" * 65}])
def test_a_concept_that_does_not_fit_its_representation_is_refused(fault: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"characters|64"):
        codes.Concept(**{"value": "A", "scheme": "99CARPUS", "english": "a", **fault})
