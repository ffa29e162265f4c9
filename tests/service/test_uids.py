import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from service import uids


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_a_derived_uid_is_valid_and_the_same_each_time(parts: list[str]) -> None:
    derived = uids.derive(*parts)
    assert UID(derived).is_valid
    assert derived.startswith("2.25.")
    assert derived == uids.derive(*parts)


def test_parts_that_join_to_the_same_text_give_different_uids() -> None:
    assert uids.derive("ab", "c") != uids.derive("a", "bc")


def test_a_known_uid_never_changes() -> None:
    # Changing the derivation would give every result ever sent a second identity.
    assert uids.derive("1.2.3", "SR") == "2.25.284307355964966082498688201195573584409"


@pytest.mark.parametrize("parts", [(), ("",), ("1.2.3", "")])
def test_a_uid_from_nothing_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="non-empty parts"):
        uids.derive(*parts)
