"""`carpus deidentify` as a person runs it, and the page that says what it does."""

import errno
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydicom import Dataset, dcmread

from service.__main__ import cli
from service.deidentification.actions import HANDLERS
from service.deidentification.confidentiality import load
from service.deidentification.statement import statement
from service.errors import Retryable
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault
from service.wrap import save
from tests.factories import CHILD, CHINESE_CHILD, instance
from tests.service.seeded import from_bytes, to_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path / "data"))

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, ["deidentify", *map(str, arguments)])

    return run


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "Zhang Wei"
    (folder / "deeper").mkdir(parents=True)
    save(instance(patient=CHILD, seed=1), folder / "test-child.dcm")
    save(instance(patient=CHINESE_CHILD, seed=2), folder / "deeper" / "test-zhang.dcm")
    save(instance(patient=CHILD, seed=3, kind="DX"), folder / "deeper" / "IM0001")
    return folder


def test_a_folder_is_copied_by_pseudonym_and_reported_file_by_file(run, films: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    result = run(films, tmp_path / "out", "--report", report)
    assert result.exit_code == 0, result.output
    assert "3 of 3 files de-identified" in result.output
    copies = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(copies) == 3
    assert len({dcmread(path).PatientID for path in copies}) == 2
    assert "zhang" not in "".join(str(path.relative_to(tmp_path)) for path in copies).lower()
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["deeper/IM0001", "deeper/test-zhang.dcm", "test-child.dcm"]
    assert {"path": "PatientName", "letter": "Z", "reason": "E.1-1 Z"} in lines[0]["actions"]
    assert all((tmp_path / "out" / line["copy"]).is_file() for line in lines)


def test_the_way_back_leads_to_the_patient(run, films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "out")
    pseudonyms = Pseudonyms.open(tmp_path / "data")
    sealed = Vault(tmp_path / "data" / "keys" / "vault.sqlite", pseudonyms)
    originals = {sealed.original(dcmread(path).PatientID) for path in (tmp_path / "out").rglob("*.dcm")}
    assert originals == {'["PatientID", "", "TEST-1"]', '["PatientID", "", "TEST-2"]'}


def test_a_second_run_makes_the_same_copies(run, films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "one")
    run(films, tmp_path / "two")
    first, second = (
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.dcm")}
        for n in ("one", "two")
    )
    assert first == second


def test_what_cannot_be_copied_is_named_and_fails_the_command(run, films: Path, tmp_path: Path) -> None:
    (films / "notes.txt").write_text("TEST^CHILD")
    ct = instance()
    ct.SOPClassUID = ct.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    save(ct, films / "ct.dcm")
    short = instance(seed=9)
    short.PixelData = short.PixelData[:100]
    save(short, films / "short.dcm")
    report = tmp_path / "report.jsonl"
    result = run(films, tmp_path / "out", "--report", report)
    assert result.exit_code == 1
    assert "3 of 6 files de-identified, 3 refused" in result.output
    codes = {
        line["file"]: line["code"] for line in map(json.loads, report.read_text().splitlines()) if not line["copy"]
    }
    assert codes == {"ct.dcm": "sop-class-not-covered", "notes.txt": "not-dicom", "short.dcm": "truncated-pixels"}
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3


def test_hostile_files_are_outcomes_and_never_end_the_run(run, films: Path, tmp_path: Path) -> None:
    nameless = instance(seed=4)
    del nameless.StudyInstanceUID
    (films / "nameless.dcm").write_bytes(to_bytes(nameless))
    (films / "empty.dcm").write_bytes(b"")
    broken = bytearray(to_bytes(instance(seed=5)))
    at = broken.index(b"CS", 400)
    broken[at : at + 4] = b"OB\xff\xff"
    (films / "broken.dcm").write_bytes(broken)
    (films / "to nowhere").symlink_to(tmp_path / "nowhere")
    report = tmp_path / "report.jsonl"
    result = run(films, tmp_path / "out", "--report", report)
    assert result.exit_code == 1
    assert not isinstance(result.exception, AttributeError), result.exception
    lines = {line["file"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert lines["nameless.dcm"]["reason"] == "StudyInstanceUID is missing"
    assert lines["empty.dcm"]["code"] == "not-dicom"
    assert lines["broken.dcm"]["copy"] is None
    assert sum(line["copy"] is not None for line in lines.values()) == 3
    assert report.stat().st_mode & 0o077 == 0


def test_the_same_instance_twice_is_one_copy_and_another_one_under_its_number_is_refused(
    run, films: Path, tmp_path: Path
) -> None:
    first = (films / "test-child.dcm").read_bytes()
    (films / "again.dcm").write_bytes(first)
    other = from_bytes(first)
    other.KVP = 61
    (films / "z-other.dcm").write_bytes(to_bytes(other))
    report = tmp_path / "report.jsonl"
    result = run(films, tmp_path / "out", "--report", report)
    assert result.exit_code == 1
    lines = {line["file"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert lines["again.dcm"]["copy"] == lines["test-child.dcm"]["copy"]
    assert lines["z-other.dcm"]["code"] == "same-instance"
    assert len(list((tmp_path / "out").rglob("*"))) == len(list((tmp_path / "out").rglob("*.dcm"))) + 5, "leftovers"


def test_a_target_that_cannot_be_written_ends_the_run_with_one_line_and_keeps_what_was_reported(
    run, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    save_as = Dataset.save_as

    def full(ds: Dataset, path: Path, **options: object) -> None:
        written.append(path)
        save_as(ds, path, **options)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Dataset, "save_as", full)
    report = tmp_path / "report.jsonl"
    result = run(films, tmp_path / "out", "--report", report)
    assert isinstance(result.exception, Retryable)
    assert "No space left on device" in str(result.exception)
    assert len(report.read_text().splitlines()) == 1
    assert not list((tmp_path / "out").rglob("*.part"))
    assert "report" in run(films, tmp_path / "out", "--report", tmp_path / "no folder" / "report").output


def test_a_target_within_the_source_is_refused(run, films: Path) -> None:
    result = run(films, films / "out")
    assert result.exit_code == 1
    assert "lies within the source" in str(result.exception)


def test_the_page_says_what_the_code_does() -> None:
    page = (ROOT / "docs" / "deidentification.md").read_text(encoding="utf-8")
    assert page == statement(load()), "regenerate: carpus deidentify --explain > docs/deidentification.md"
    for letter in HANDLERS:
        assert f"\n| {letter} | " in page
    rows = [line for line in page.splitlines() if line.startswith("| (")]
    assert len(rows) == len(load().rows)


def test_a_profile_with_an_unknown_keyword_is_refused_by_name(run, films: Path, tmp_path: Path) -> None:
    text = (ROOT / "service" / "deidentification" / "profiles" / "export.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("  - CodeValue\n", "  - CodeWert\n"))
    result = run(films, tmp_path / "out", "--profile", wrong)
    assert result.exit_code == 1
    assert "CodeWert" in str(result.exception)


def test_a_private_attribute_stays_only_when_its_creator_is_listed(tmp_path: Path) -> None:
    from service.deidentification.deidentify import deidentify

    text = (ROOT / "service" / "deidentification" / "profiles" / "export.yaml").read_text(encoding="utf-8")
    listed = tmp_path / "site.yaml"
    listed.write_text(
        text.replace("safe_private: []", "safe_private: [{creator: ACME, group: '0019', element: '10', VR: DS}]")
    )
    film = instance()
    block = film.private_block(0x0019, "ACME", create=True)
    block.add_new(0x10, "DS", "1.5")
    block.add_new(0x11, "LO", "Zhang Wei")
    film.private_block(0x0019, "OTHER", create=True).add_new(0x10, "DS", "1.5")
    copy, _ = deidentify(from_bytes(to_bytes(film)), Pseudonyms(b"k" * 32), load(listed))
    private = {element.tag: element.value for element in from_bytes(to_bytes(copy)) if element.tag.is_private}
    assert {str(value) for value in private.values()} == {"ACME", "1.5"}
