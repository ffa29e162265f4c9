"""Fixtures of the service's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.listening import Running, start


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    """Yield a storage SCP that listens on a free port."""
    running = start(tmp_path)
    with running.server:
        yield running
    running.jobs.engine.dispose()
