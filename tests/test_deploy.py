"""The composition is checked against the compose specification and against what the code really reads."""

import json
import re
import subprocess
import sys
import tomllib
import typing
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml
from argon2 import PasswordHasher
from click.testing import CliRunner
from pydantic import BaseModel

from service.__main__ import COMMANDS, cli
from service.settings import Settings, load
from service.supervisor import STOP_SECONDS
from tests.system.tools import tool

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OURS = {name: service for name, service in COMPOSE["services"].items() if str(service["image"]).startswith("carpus:")}


def _setting_exists(key: str, model: type[BaseModel]) -> bool:
    head, _, rest = key.partition("__")
    field = model.model_fields.get(head)
    if field is None:
        return False
    annotation = field.annotation
    return not rest or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel) and _setting_exists(rest, annotation)
    )


def _setting_names(names: typing.Iterable[str]) -> list[str]:
    return [name[7:].lower() for name in names if name.upper().startswith("CARPUS_")]


def test_the_composition_follows_the_compose_specification() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_of_the_composition_is_a_setting(name: str) -> None:
    variables = set(_setting_names(OURS[name]["environment"])) - {"config"}
    assert {key for key in variables if not _setting_exists(key, Settings)} == set()


def test_every_secret_is_a_setting_or_the_database_s_own() -> None:
    secrets = set(COMPOSE["secrets"]) - {"postgres_password"}
    assert {key for key in _setting_names(secrets) if not _setting_exists(key, Settings)} == set()
    assert all(key.startswith("carpus_") for key in secrets)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_container_runs_a_command_that_exists(name: str) -> None:
    program, command, *_ = OURS[name]["command"]
    assert program == "carpus"
    assert command in COMMANDS


def test_inference_reaches_neither_the_identified_store_nor_the_pacs() -> None:
    inference = OURS["inference"]
    mounts = [str(volume).split(":")[1] for volume in inference["volumes"]]
    assert "/var/lib/carpus/identified" not in mounts
    assert "/var/lib/carpus/keys" not in mounts
    assert inference["networks"] == ["inference"]
    assert COMPOSE["networks"]["inference"]["internal"] is True


def test_who_forwards_the_audit_trail_has_a_way_to_the_hospital_s_repository() -> None:
    assert "Follower(" in (ROOT / "service" / "commands" / "intake.py").read_text(encoding="utf-8")
    networks = {name: COMPOSE["networks"][name] or {} for name in OURS["intake"]["networks"]}
    assert any(not network.get("internal") for network in networks.values()), networks


def test_git_leaves_alone_what_the_deployment_page_has_a_site_write_into_its_clone() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    secrets = {Path(each["file"]).parent.name for each in COMPOSE["secrets"].values()}
    assert {f"/{folder}/" for folder in secrets | {"tls"}} | {"/docker-compose.override.yml"} <= set(ignored)


def test_the_sample_configuration_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARPUS_CONFIG", raising=False)
    settings = load(ROOT / "deploy" / "carpus.yaml")
    assert settings.destinations[0].host in COMPOSE["services"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_container_is_given_longer_to_stop_than_a_process_takes_at_most(name: str) -> None:
    grace = OURS[name].get("stop_grace_period", "10s")  # what the engine gives when nothing is said
    assert int(grace.removesuffix("s")) > 2 * STOP_SECONDS


def test_no_container_runs_as_root_or_writes_to_its_image() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "\nUSER carpus\n" in dockerfile
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in OURS.values())


def test_the_image_has_the_extras_that_a_setting_may_need_in_both_of_its_layers() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    needed = {*extras} - {"dev", "train"}
    [code] = re.findall(r'python -c "(import tomllib[^"]*)"', dockerfile)
    first = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {text for extra in needed for text in extras[extra]} <= set(first.splitlines())
    [second] = re.findall(r'constraints\.txt "\.\[(.*)\]"', dockerfile)
    assert set(second.split(",")) == needed


def test_nobody_is_told_to_install_an_extra_from_an_index_that_has_no_carpus() -> None:
    told = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "service").rglob("*.py")]
    assert [path for path in told if re.search(r"install [^`\n]*carpus\[", path.read_text(encoding="utf-8"))] == []


def test_the_pages_have_a_way_to_an_identity_provider() -> None:
    assert any(not (COMPOSE["networks"][name] or {}).get("internal") for name in OURS["web"]["networks"])


def test_the_command_of_the_deployment_page_prints_a_hash_that_verifies() -> None:
    password = "a long password"
    result = CliRunner().invoke(cli, ["web", "--hash-password"], input=f"{password}\n{password}\n")
    assert result.exit_code == 0, result.output
    assert PasswordHasher().verify(result.stdout.strip().splitlines()[-1], password)


def test_the_image_takes_neither_secrets_nor_state() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in dockerfile.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "secret" not in dockerfile.lower().replace("no secret in the image", "")


@pytest.mark.parametrize("name", ["intake", "delivery"])
def test_who_opens_the_vault_may_write_where_it_lies(name: str) -> None:
    assert "keys:/var/lib/carpus/keys" in OURS[name]["volumes"]


def test_who_speaks_tls_finds_its_certificates_read_only_and_inference_has_none() -> None:
    mounts = {name: [str(each) for each in service.get("volumes", ())] for name, service in OURS.items()}
    with_tls = {name for name, each in mounts.items() if "./tls:/etc/carpus/tls:ro" in each}
    assert with_tls == {"scp", "delivery", "web"}
    assert "2762:2762" in OURS["scp"]["ports"]
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert "certificate: /etc/carpus/tls/CARPUS.pem" in page


def test_systemd_takes_the_unit_and_it_starts_a_command_that_exists(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "carpus.service").read_text(encoding="utf-8")
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    _program, command, option, path = unit["ExecStart"].split()
    assert (command, option) == ("serve", "--config")
    assert f"{path}    # then set" in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert _setting_names([unit["Environment"].split("=")[0]]) == ["data_directory"]
    assert int(unit["TimeoutStopSec"]) > 2 * STOP_SECONDS  # the supervisor ends its processes before systemd ends it
    assert not {"PrivateDevices", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"} & unit.keys()  # see the unit
    # The program and the user are made by the installation: true and root stand for them.
    here = tmp_path / "carpus.service"
    here.write_text(
        text.replace("/opt/carpus/bin/carpus", "/bin/true").replace("=carpus\n", "=root\n"), encoding="utf-8"
    )
    program = tool("systemd-analyze", "systemd")
    done = subprocess.run([program, "verify", "--man=no", str(here)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "carpus" in line]) == (0, [])


def test_the_unit_takes_from_the_service_what_it_does_not_need() -> None:
    program = tool("systemd-analyze", "systemd")
    unit = ROOT / "deploy" / "carpus.service"
    # Tenths of systemd's exposure level, with 25 "OK"; the unit had 83 with its file system alone closed.
    command = [program, "security", "--offline=yes", "--threshold=25", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]
