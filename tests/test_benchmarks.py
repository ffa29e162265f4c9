from pathlib import Path

import pytest

from benchmarks import pages, results

PAGE = Path(results.FOLDER) / "README.md"


def test_the_results_page_is_what_the_stored_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert results.render(text) == text, "run python -m benchmarks.results"


def test_a_page_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        results.render("# Results\n")


@pytest.mark.parametrize("name", pages.PARTS)
def test_the_documentation_shows_what_the_stored_results_say(name: str) -> None:
    text = (pages.DOCS / pages.PARTS[name][0]).read_text(encoding="utf-8")
    assert pages.rendered(name, text) == text, "run python -m benchmarks.results"
