"""Attacks through real sockets on real processes: each refused, little memory taken, the others served meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.attacks.__main__ import ATTACKS, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run all of them once: they need one installation, and the last locks this address out."""
    folder = tmp_path_factory.mktemp("attacks")
    found = {row["attack"]: row for row in run(Path(str(folder)))}
    traces = (folder / "scp.log").read_text() + (folder / "web.log").read_text()
    assert "Traceback" not in traces
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_harms_nobody_else(rows: dict[str, dict[str, Any]], name: str) -> None:
    row = rows[name]
    assert row["refused"], row["answer"]
    assert row["alive"]
    assert row["growth_mib"] < 100
    assert row["echoes"]
    assert row["unanswered"] == 0
    # Under a second on a machine that does nothing else (docs/security.md); here only that nobody waits for an attacker's time limit.
    assert max(row["echo_ms_maximum"], row["tls_echo_ms_maximum"]) < 5000
