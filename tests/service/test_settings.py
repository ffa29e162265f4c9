import errno
import os
from pathlib import Path
from typing import Any

import pytest

from service import settings
from service.errors import InvalidConfiguration
from service.settings import Peer, Settings, load


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "SECRETS_DIRECTORY", tmp_path / "secrets")
    for name in ("CARPUS_AE_TITLE", "CARPUS_CONFIG", "CARPUS_LIMITS__MAXIMUM_ASSOCIATIONS"):
        monkeypatch.delenv(name, raising=False)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "carpus.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_environment_wins_over_the_file_and_leaves_its_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPUS_LIMITS__MAXIMUM_ASSOCIATIONS", "7")
    path = _file(tmp_path, "ae_title: BONEAGE\nlimits: {maximum_associations: 3, maximum_pdu_size: 16384}\n")
    loaded = load(path)
    assert loaded.ae_title == "BONEAGE"
    assert loaded.limits.maximum_associations == 7
    assert loaded.limits.maximum_pdu_size == 16384


def test_a_secret_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "carpus_web__secret_key").write_text("k" * 40)
    assert load().web.secret_key.get_secret_value() == "k" * 40


def test_a_secret_that_cannot_be_read_is_named_with_who_has_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "carpus_database_url"
    secret.write_text("postgresql+psycopg://carpus@postgres/carpus")
    read = Path.read_text

    def refused(path: Path, *words: Any, **named: Any) -> str:
        if path == secret:  # as root, who runs some of these tests, reads every file
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *words, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(InvalidConfiguration, match=f"{secret} cannot be read: Permission denied") as caught:
        load()
    assert f"uid {os.geteuid()}" in caught.value.next_action


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * 17_000_000])
def test_a_secret_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "carpus_database_url").write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=f"{tmp_path}/secrets"):
        load()


def test_a_variable_that_is_no_json_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPUS_WEB__MONITOR_ADDRESSES", "10.9.8.0/24")
    with pytest.raises(InvalidConfiguration, match="web") as caught:
        load()
    assert "10.9.8.0" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ae_tilte: X\n", "ae_tilte: there is no such setting; ae_title was meant"),
        (
            "peers: [{ae_title: PACS, host: pacs1}]\n",
            "peers.0.host: there is no such setting; here are addresses, ae_title,",
        ),
        ("limits: {maximum_backlogs: 5}\n", "limits.maximum_backlogs: .*; maximum_backlog was meant"),
        ("ae_title: A-TITLE-LONGER-THAN-16\n", "ae_title"),
        ("scp_port: 70000\n", "scp_port"),
        ("peers: [{ae_title: PACS, addresses: [300.1.1.1]}]\n", "peers.0.addresses"),
        ("web: {secret_key: change-me}\n", "web.secret_key"),
        ("limits: {maximum_instance_bytes: 5}\n", "limits.maximum_instance_bytes"),
        ("- a list\n", "a mapping of settings is needed"),
        ("ae_title: [\n", "is not YAML"),
    ],
)
def test_a_fault_names_the_setting(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidConfiguration, match=named):
        load(_file(tmp_path, text))


MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 7))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"peers: " + b"[" * 100_000, "is not YAML in line 1: nested more than 100 deep"),
        (b"".join(b"%sa:\n" % (b" " * i) for i in range(200)), "is not YAML in line 100: nested more than 100 deep"),
        (MERGED.encode(), "is not YAML in line 6: a mapping of more than 10000 names"),
        (b"scp_port: 11112\npeers: []\nscp_port: 11113\n", "line 3: scp_port stands here for the second time"),
        (b"ae_title: \xff\n", "is not YAML: 'utf-8' codec"),
        (b"ae_title: A\0B\n", "is not YAML: unacceptable character #x0000"),
        (b"scp_port: " + b"9" * 10_000, "is not YAML: Exceeds the limit"),
        (b"ae_title: 2001-99-99\n", "is not YAML: month must be in 1..12"),
        (b"ae_title: !!python/object/apply:os.system [id]\n", "is not YAML in line 1: could not determine"),
        (b"1: 2\n", "1: there is no such setting"),
        (b"#" * 2**20 + b"\n", "has more than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_person_wrote_is_refused_with_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "carpus.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidConfiguration) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_merged_may_be_set_anew(tmp_path: Path) -> None:
    first = "&one {ae_title: ONE, addresses: [10.1.0.0/16], maximum_associations: 3}"
    loaded = load(_file(tmp_path, f"peers: [{first}, {{<<: *one, ae_title: TWO}}]\n"))
    assert [(peer.ae_title, peer.maximum_associations) for peer in loaded.peers] == [("ONE", 3), ("TWO", 3)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_two_destinations_cannot_share_a_name(tmp_path: Path) -> None:
    pacs = "{name: pacs, ae_title: PACS, host: h, port: 104}"
    with pytest.raises(InvalidConfiguration, match="same name twice: pacs, pacs"):
        load(_file(tmp_path, f"destinations: [{pacs}, {pacs}]\n"))


def test_a_peer_is_admitted_from_its_networks_alone() -> None:
    peer = Peer(ae_title="PACS", addresses=("10.1.0.0/16", "::1/128"))
    assert peer.admits("10.1.200.3")
    assert peer.admits("::1")
    assert not peer.admits("10.2.0.1")
    assert not peer.admits("127.0.0.1")


@pytest.mark.parametrize("setting", ["database_url", "broker_url"])
@pytest.mark.parametrize(("password", "refused"), [("change-me", True), ("Secret", True), ("kMu8-2c", False)])
def test_an_example_password_in_an_address_refuses_to_start(setting: str, password: str, refused: bool) -> None:
    address = f"postgresql+psycopg://carpus:{password}@db/carpus"
    if refused:
        with pytest.raises(InvalidConfiguration, match=setting):
            load(None, **{setting: address})
    else:
        assert getattr(load(None, **{setting: address}), setting) == address


@pytest.mark.parametrize(("processors", "processes"), [({3}, 1), ({0, 1}, 2), (set(range(16)), 2)])
def test_two_processes_receive_where_two_processors_may_be_used(
    monkeypatch: pytest.MonkeyPatch, processors: set[int], processes: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: processors)
    assert Settings().scp_processes == processes
