"""Every figure and every weights folder says by which commit it was made: one that anybody can check out."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOST = re.compile(r"^\| `([0-9a-f]{12})` \| (.+) \| `([0-9a-f]{7,12})` \|$", re.MULTILINE)  # of benchmarks/README.md


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def history() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is no history to look in")
    if _git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("this clone is shallow: git fetch --unshallow brings its history")
    return _git("rev-list", "HEAD").splitlines()


def _commits(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _commits(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _commits(value, key)
    elif isinstance(node, str) and key.startswith("commit"):
        yield from re.findall(r"\b[0-9a-f]{7,40}\b", node)  # "+changes" may follow


def _recorded() -> dict[str, list[str]]:
    """Return the files that name each commit."""
    found: dict[str, list[str]] = {}
    for path in sorted([*(ROOT / "benchmarks").rglob("*.json"), *(ROOT / "models/bundles").rglob("metadata.json")]):
        for commit in _commits(json.loads(path.read_text(encoding="utf-8"))):
            found.setdefault(commit, []).append(path.relative_to(ROOT).as_posix())
    return found


def _told() -> dict[str, str]:
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    return {lost: kept for lost, _, kept in LOST.findall(page)}


def test_every_recorded_commit_is_in_the_history_or_told_of(history: list[str]) -> None:
    recorded, told = _recorded(), _told()
    assert len(recorded) > 30
    gone = {
        commit: files
        for commit, files in recorded.items()
        if commit not in told and not any(whole.startswith(commit) for whole in history)
    }
    assert not gone, "written before a rebase; measure again, or name the commit that carries the same change"


def test_what_is_told_of_lost_commits_is_recorded_lost_and_leads_to_one_that_is_there(history: list[str]) -> None:
    recorded = _recorded()
    for lost, kept in _told().items():
        assert lost in recorded
        assert not any(whole.startswith(lost) for whole in history)
        assert any(whole.startswith(kept) for whole in history)
