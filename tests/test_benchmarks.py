import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pages, results
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
