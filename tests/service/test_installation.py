"""What an installation is known by: one identifier, whichever process asks first and wherever it runs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import installation
from service.errors import Permanent
from service.settings import Settings


def test_every_process_finds_the_same_identifier(tmp_path: Path, engine: Engine) -> None:
    """Delivery workers in containers have directories of their own, which may be read-only."""
    apart = [Settings(data_directory=tmp_path / str(number)) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda settings: installation.device_uid(settings, engine), apart))
    assert len(found) == 1
    assert found.pop().startswith("2.25.")
    assert list(tmp_path.glob("*/*")) == []


def test_the_identifier_that_an_earlier_version_kept_in_a_file_stays(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "device_uid").write_text("2.25.4711\n", encoding="ascii")
    settings = Settings(data_directory=tmp_path)
    assert installation.device_uid(settings, engine) == "2.25.4711"
    (tmp_path / "device_uid").unlink()
    assert installation.device_uid(settings, engine) == "2.25.4711"


def test_the_identifier_that_is_set_goes_first(tmp_path: Path, engine: Engine) -> None:
    settings = Settings(data_directory=tmp_path, device_uid="2.25.7")
    assert installation.device_uid(settings, engine) == "2.25.7"


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    with installation.locked(tmp_path), pytest.raises(Permanent, match="uses"), installation.locked(tmp_path):
        pass
    with installation.locked(tmp_path):
        pass
