import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks import dcmtk, pages, results
from models import refusal

PAGE = Path(results.FOLDER) / "README.md"


def test_the_results_page_is_what_the_stored_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert results.render(text) == text, "run python -m benchmarks.results"


def test_a_script_ends_on_what_it_cannot_use_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.reader", "--bundle", str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == refusal.STATUS
    assert re.fullmatch(r"reader.py: bundle \S+none.json cannot be read: .+\n", done.stderr)


@pytest.mark.parametrize("bench", ["ingest", "queue"])
def test_a_folder_that_is_not_there_is_named(bench: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{bench}", "--folder", str(tmp_path / "none")]
    with tempfile.TemporaryDirectory(dir=tmp_path) as binaries:
        program(Path(binaries), "storescu", "$dcmtk: storescu v3.6.7")
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert (done.returncode, done.stderr) == (refusal.STATUS, f"{bench}.py: there is no folder {tmp_path / 'none'}\n")


def program(folder: Path, name: str, says: str) -> Path:
    """Write a program that answers one line, whatever it is asked."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_the_programs_of_dcmtk_are_told_from_others_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("environment", "text", "dcmtk")]
    for folder in folders:
        folder.mkdir()
    program(
        folders[0], "storescu", "storescu.py v0.6.0"
    )  # as pynetdicom's, which comes first where an environment is active
    (folders[1] / "storescu").write_text("$dcmtk", encoding="utf-8")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    dcmtk.find.cache_clear()
    with pytest.raises(refusal.Refusal, match="storescu of DCMTK is not on the PATH"):
        dcmtk.needed("storescu")
    dcmtk.find.cache_clear()
    ours = program(folders[2], "storescu", "$dcmtk: storescu v3.6.7 2022-04-22 $")
    assert dcmtk.needed("storescu") == str(ours)
    dcmtk.find.cache_clear()


def test_every_script_is_run_by_the_one_that_ends_it_with_a_line() -> None:
    # The comparison of tools runs where those tools are installed, which need not be where Carpus is.
    scripts = [path for path in Path(results.__file__).parent.glob("*.py") if path.name != "deidentification_tools.py"]
    scripts = [path for path in scripts if "__main__" in path.read_text("utf-8")]
    assert len(scripts) > 12
    assert [
        path.name for path in scripts if not path.read_text("utf-8").endswith("\n    refusal.command(main)\n")
    ] == []


def test_a_page_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        results.render("# Results\n")


@pytest.mark.parametrize("name", pages.PARTS)
def test_the_documentation_shows_what_the_stored_results_say(name: str) -> None:
    text = (pages.DOCS / pages.PARTS[name][0]).read_text(encoding="utf-8")
    assert pages.rendered(name, text) == text, "run python -m benchmarks.results"
