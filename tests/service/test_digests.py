"""Digests name their function; the values are those of its authors."""

from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from service import db
from service.errors import Permanent
from service.receiving.digests import digest


def test_a_digest_is_that_of_the_function_it_names() -> None:
    # The first test vector of the BLAKE3 repository: no bytes at all.
    assert digest(b"") == "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest(memoryview(b"abc"), like="sha256:00") == f"sha256:{sha256(b'abc').hexdigest()}"


def test_a_digest_of_a_later_version_is_not_taken_for_another() -> None:
    with pytest.raises(Permanent, match="'sha512' is no digest this version knows"):
        digest(b"", like="sha512:00")


def test_a_row_of_before_says_that_its_digest_is_of_sha256(tmp_path: Path) -> None:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    row = {"sha256": "ab" * 32, "byte_count": 1, "received_at": "2026-01-01 00:00:00"}
    names = ("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "study_instance_uid", "series_instance_uid")
    row |= dict.fromkeys((*names, "calling_ae_title", "called_ae_title", "address", "name"), "x")
    with as_file(files("service") / "migrations") as folder, engine.execution_options(write=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0011")
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO instances ({', '.join(row)}) VALUES ({values})"), row)
        command.upgrade(config, "head")
        assert connection.execute(text("SELECT digest FROM instances")).scalar() == f"sha256:{'ab' * 32}"
        command.downgrade(config, "0011")
        assert connection.execute(text("SELECT sha256 FROM instances")).scalar() == "ab" * 32
    engine.dispose()
