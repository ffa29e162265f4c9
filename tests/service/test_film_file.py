"""Reading a received film back: what cannot be decoded is left out or named, never an unexpected error."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from models.pixels.errors import panics_are_errors
from service.errors import InvalidInstance
from service.film_file import read_film
from tests.factories import encoded, instance


def test_an_attribute_that_cannot_be_decoded_is_left_out_and_logged_by_its_tag(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    whole = encoded(instance())
    sex = b"\x10\x00\x40\x00CS\x02\x00F "  # (0010,0040) PatientSex
    assert sex in whole
    path.write_bytes(whole.replace(sex, b"\x10\x00\x40\x00FL\x02\x00F "))  # a FL has 4 bytes
    with capture_logs() as logs:
        film = read_film(path)
    assert "PatientSex" not in film
    assert "PatientBirthDate" in film
    (entry,) = logs
    assert (entry["count"], entry["some"]) == (1, ["00100040"])


def test_a_whole_film_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    ds = instance()
    path.write_bytes(encoded(ds))
    with capture_logs() as logs:
        assert read_film(path) == ds
    assert logs == []


def test_what_cannot_be_parsed_is_an_invalid_instance_without_its_values(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    nested = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 3000
    whole = encoded(instance())
    begin = 144 + int.from_bytes(whole[140:144], "little")
    path.write_bytes(whole[:begin] + nested + whole[begin:])
    with pytest.raises(InvalidInstance) as refused:
        read_film(path)
    assert refused.value.code == "cannot-parse"
    assert "TEST" not in str(refused.value)
    with pytest.raises(FileNotFoundError):
        read_film(tmp_path / "nowhere.dcm")


def test_a_panic_of_a_codec_in_rust_is_an_error_like_any_other() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(RuntimeError, match="panicked: index out of range"), panics_are_errors():
        raise PanicException("index out of range")
    with pytest.raises(KeyboardInterrupt), panics_are_errors():
        raise KeyboardInterrupt


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_film_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "film.dcm")
    with pytest.raises(InvalidInstance, match="a pipe or a device") as refused:
        read_film(tmp_path / "film.dcm")
    assert refused.value.code == "cannot-parse"
