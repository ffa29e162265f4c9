"""What holds for every test: in CI nothing is skipped, since `.ci/run` installs every peer the tests talk to."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command of a test set up: the next test captures events of every level again."""
    root, before = logging.getLogger(), structlog.get_config().copy()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skipped tests as failures in CI."""
    skipped = terminalreporter.getreports("skipped")
    if os.environ.get("CI") and skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, which CI does not allow", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End with failure in CI when a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.getreports("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
