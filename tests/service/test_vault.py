"""The vault and its keys: sealed at rest, rotated under way, shredded by patient."""

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service import db, settings
from service.auditing.trail import Trail
from service.commands.keys import keys as command
from service.errors import InvalidConfiguration, Permanent, Retryable
from service.queue.causes import Kind, policy_of
from service.settings import KeySettings
from service.storage import DiskFull
from service.trust.keys import KeyCommand, KeyFile, Keys, KeyValue, name_of, source_of
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault

KEY = b"a secret of exactly 32 bytes ...".ljust(32)
OTHER = b"another secret of 32 bytes .....".ljust(32)


def vault(folder: Path, keys: Keys | bytes = KEY) -> Vault:
    return Vault(folder / "vault.sqlite", Pseudonyms(keys))


def test_the_vault_leads_back_only_with_the_key(tmp_path: Path) -> None:
    vault(tmp_path).remember("P-A", {"P-A": "TEST-1 张伟", "2.25.1": "1.2.3"})
    assert vault(tmp_path).original("P-A") == "TEST-1 张伟"
    assert vault(tmp_path).original("2.25.1") == "1.2.3"
    assert vault(tmp_path).original("P-UNKNOWN") is None
    file = tmp_path / "vault.sqlite"
    assert b"TEST-1" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(Permanent, match="does not open"):
        vault(tmp_path, OTHER).original("P-A")


def test_a_header_is_kept_by_its_job_and_replaced_by_a_repeat(tmp_path: Path) -> None:
    held = vault(tmp_path)
    held.keep_header(7, "P-A", b"first")
    held.keep_header(7, "P-A", b"second")
    assert held.header(7) == b"second"
    assert held.header(8) is None
    held.drop_header(7)
    assert held.header(7) is None


def test_records_of_one_patient_do_not_open_as_anothers(tmp_path: Path) -> None:
    held = vault(tmp_path)
    held.keep_header(1, "P-A", b"of A")
    held.keep_header(2, "P-B", b"of B")
    with sqlite3.connect(tmp_path / "vault.sqlite") as db:
        db.execute("UPDATE headers SET record = (SELECT record FROM headers WHERE job = 1) WHERE job = 2")
    db.close()
    with pytest.raises(Permanent, match="does not open"):
        held.header(2)


def test_shredding_a_patient_makes_every_record_noise_even_in_a_copy_of_the_records(tmp_path: Path) -> None:
    held = vault(tmp_path)
    held.remember("P-A", {"P-A": "TEST-1"})
    held.keep_header(1, "P-A", b"a header of A")
    held.remember("P-B", {"P-B": "TEST-2"})
    with sqlite3.connect(tmp_path / "vault.sqlite") as db:
        (wrapped,) = db.execute("SELECT key FROM patients WHERE subject = 'P-A'").fetchone()
        saved = db.execute("SELECT * FROM headers").fetchall()
    db.close()
    assert held.shred("P-A")
    assert held.original("P-A") is None
    assert held.header(1) is None
    assert wrapped not in (tmp_path / "vault.sqlite").read_bytes()
    with sqlite3.connect(tmp_path / "vault.sqlite") as db:  # a backup of the records comes back, the key does not
        db.executemany("INSERT INTO headers VALUES (?, ?, ?, ?)", saved)
    db.close()
    assert held.header(1) is None
    assert held.original("P-B") == "TEST-2"
    assert not held.shred("P-A")


def test_a_rotated_key_seals_while_old_records_open_and_a_running_process_follows(tmp_path: Path) -> None:
    source = KeyFile(tmp_path / "keys.json")
    running = Vault(tmp_path / "vault.sqlite", Pseudonyms(source.read(), source))
    running.remember("P-A", {"P-A": "TEST-1"})
    source.replace(source.read().rotated())
    Vault(tmp_path / "vault.sqlite", Pseudonyms(source.read(), source)).remember("P-B", {"P-B": "TEST-2"})
    assert running.original("P-B") == "TEST-2"  # sealed under a key this process had not seen
    assert running.census().patients == {0: 1, 1: 1}
    assert running.rewrap() == 1
    source.replace(source.read().newest_only())
    fresh = Vault(tmp_path / "vault.sqlite", Pseudonyms(source.read(), source))
    assert (fresh.original("P-A"), fresh.original("P-B")) == ("TEST-1", "TEST-2")
    assert fresh.census().patients == {0: 2}


def test_a_process_does_not_follow_to_keys_of_another_installation(tmp_path: Path) -> None:
    source = KeyFile(tmp_path / "keys.json")
    mine = Pseudonyms(source.read(), source)
    source.path.write_text(Keys.generate().to_json())
    record = Pseudonyms(source.read()).seal(b"x", "c")
    with pytest.raises(Permanent, match="does not open"):
        mine.unseal(record, "c")


def test_keys_come_from_a_file_the_environment_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys.generate()
    path = tmp_path / "elsewhere.json"
    path.write_text(keys.to_json())
    path.chmod(0o600)
    assert source_of(settings.load(data_directory=tmp_path, keys=KeySettings(file=path))).read() == keys
    command = KeySettings(command=f"cat '{path}'")
    assert source_of(settings.load(data_directory=tmp_path, keys=command)).read() == keys
    monkeypatch.setenv("CARPUS_KEYS__VALUE", keys.to_json())
    loaded = settings.load(data_directory=tmp_path)
    assert source_of(loaded).read() == keys
    assert "pseudonym" not in repr(loaded.keys)
    assert not (tmp_path / "keys").exists()
    with pytest.raises(InvalidConfiguration, match="one place"):
        settings.load(data_directory=tmp_path, keys={"command": "true", "file": str(path)})


def test_a_command_that_fails_says_so_without_its_output_or_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="exit status 3") as failed:
        KeyCommand("sh -c 'echo hunter2; echo hunter2 >&2; exit 3'").read()
    assert "hunter2" not in str(failed.value)
    with pytest.raises(Retryable, match="FileNotFoundError"):
        KeyCommand(str(tmp_path / "absent")).read()
    with pytest.raises(InvalidConfiguration, match="not one of ours"):
        KeyCommand("echo nothing").read()
    with pytest.raises(Permanent, match="cannot be written"):
        KeyCommand("true").replace(Keys.generate())
    with pytest.raises(Permanent, match="cannot be written"):
        KeyValue("{}").replace(Keys.generate())
    with pytest.raises(InvalidConfiguration, match="missing"):
        KeyFile(tmp_path / "absent.json", made_when_missing=False).read()


def carpus(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, env={"CARPUS_DATA_DIRECTORY": str(folder)})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_lists_rotates_and_seals_anew(tmp_path: Path) -> None:
    loaded = settings.load(data_directory=tmp_path)
    Vault.of(loaded, Pseudonyms.of(loaded)).remember("P-A", {"P-A": "TEST-1"})
    first = source_of(loaded).read()
    shown = carpus(tmp_path, "list")
    assert name_of(first.seals[0]) in shown
    assert "seals and opens: 1 patients" in shown
    printed = json.loads(carpus(tmp_path, "rotate", "--print"))
    assert len(printed["seals"]) == 2
    assert source_of(loaded).read() == first  # printed, not stored
    carpus(tmp_path, "rotate")
    assert "opens: 1 patients" in carpus(tmp_path, "list")
    assert "1 patients sealed anew" in carpus(tmp_path, "rewrap", "--drop-old")
    now = source_of(loaded).read()
    assert len(now.seals) == 1
    assert now.seals[0] != first.seals[0]
    assert now.pseudonym == first.pseudonym
    assert Vault.of(loaded, Pseudonyms.of(loaded)).original("P-A") == "TEST-1"
    assert stat.S_IMODE((tmp_path / "keys" / "pseudonyms.json").stat().st_mode) == 0o600
    # Who changed the keys stands in the audit trail; no key does.
    records = Trail(db.connect(loaded.resolved_database_url)).records(limit=10)
    assert [record.event for record in records] == ["CONFIGURED"] * 3
    told = "".join(record.message for record in records)
    assert "printed" in told
    assert name_of(now.seals[0]) in told
    assert not any(key in told for key in printed["seals"])


def test_a_full_disk_and_a_lost_right_pass_and_are_told_apart(tmp_path: Path) -> None:
    """Either had made dead letters of films that came while the disk was full."""
    held = vault(tmp_path)
    real = sqlite3.connect

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db = real(*arguments, **options)
        db.execute("PRAGMA max_page_count = 1")
        return db

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.trust.vault.sqlite3.connect", small)
        with pytest.raises(DiskFull, match="full") as full:
            held.keep_header(1, "P-A", b"x" * 100_000)
    assert policy_of(full.value).kind is Kind.TRANSIENT

    def read_only(*_: Any, **options: Any) -> sqlite3.Connection:
        return real(f"file:{tmp_path / 'vault.sqlite'}?mode=ro", uri=True, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.trust.vault.sqlite3.connect", read_only)
        with pytest.raises(Retryable, match="readonly") as refused:
            held.keep_header(1, "P-A", b"x")
    assert policy_of(refused.value).kind is Kind.TRANSIENT
    assert "keys/" in policy_of(refused.value).next_action
    held.keep_header(1, "P-A", b"x")
    assert held.header(1) == b"x"
