from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.uid import UID

from service.errors import InvalidConfiguration, Permanent
from service.trust.keys import Keys
from service.trust.pseudonyms import Pseudonyms

KEY = b"a secret of exactly 32 bytes ...".ljust(32)
OTHER = b"another secret of 32 bytes .....".ljust(32)


def test_one_patient_gets_one_pseudonym_and_another_key_gives_another() -> None:
    assert Pseudonyms(KEY).patient("TEST-1") == Pseudonyms(KEY).patient("TEST-1")
    assert Pseudonyms(KEY).patient("TEST-1") != Pseudonyms(KEY).patient("TEST-2")
    assert Pseudonyms(KEY).patient("TEST-1") != Pseudonyms(OTHER).patient("TEST-1")


def test_a_pseudonym_fits_every_representation_an_identifier_has() -> None:
    pseudonym = Pseudonyms(KEY).patient("TEST-1")
    assert len(pseudonym) <= 16
    assert pseudonym.isascii()
    assert not set(pseudonym) & set("\\^=")


@pytest.mark.parametrize("original", ["1.2.3", "1.2.840.10008.5.1.4", "", "not a uid", "1" * 200])
def test_a_mapped_uid_is_valid_whatever_the_original_was(original: str) -> None:
    mapped = UID(Pseudonyms(KEY).uid(original))
    assert mapped.is_valid
    assert mapped.startswith("2.25.")
    assert (int(mapped[5:]) >> 76) & 0xF == 8  # the version nibble of a UUID, bits 48 to 51


def test_dates_of_one_patient_move_together_one_to_ten_years_into_the_past() -> None:
    shifts = [Pseudonyms(KEY).date_shift(f"TEST-{n}") for n in range(200)]
    assert shifts[7] == Pseudonyms(KEY).date_shift("TEST-7")
    assert len(set(shifts)) > 190
    assert all(timedelta(days=-3653) <= shift <= timedelta(days=-365) for shift in shifts)


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = Pseudonyms.open(tmp_path).patient("TEST-1")
    path = tmp_path / "keys" / "pseudonyms.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Pseudonyms.open(tmp_path).patient("TEST-1") == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.chmod(0o644)
    with pytest.raises(InvalidConfiguration, match="0644"):
        Pseudonyms.open(tmp_path)


def test_a_damaged_key_file_is_refused_and_never_replaced(tmp_path: Path) -> None:
    Pseudonyms.open(tmp_path)
    path = tmp_path / "keys" / "pseudonyms.json"
    path.write_text("{}")
    with pytest.raises(InvalidConfiguration, match="not one of ours"):
        Pseudonyms.open(tmp_path)
    assert path.read_text() == "{}"


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33])
def test_a_key_of_the_wrong_length_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidConfiguration, match=f"{len(key)} bytes"):
        Pseudonyms(key)


def test_no_key_shows_in_a_representation() -> None:
    keys = Keys.generate()
    assert "b'" not in repr(keys)


def test_a_sealed_record_cannot_be_moved_to_another_pseudonym() -> None:
    pseudonyms = Pseudonyms(KEY)
    with pytest.raises(Permanent, match="does not open"):
        pseudonyms.unseal(pseudonyms.seal(b"x", "P-ONE"), "P-TWO")


def test_a_new_sealing_key_leaves_old_records_readable_and_pseudonyms_unchanged() -> None:
    old = Keys.generate()
    new = old.rotated()
    sealed = Pseudonyms(old).seal(b"x", "P-ONE")
    assert Pseudonyms(new).unseal(sealed, "P-ONE") == b"x"
    assert Pseudonyms(new).patient("TEST-1") == Pseudonyms(old).patient("TEST-1")
    with pytest.raises(Permanent):
        Pseudonyms(old).unseal(Pseudonyms(new).seal(b"x", "P-ONE"), "P-ONE")
