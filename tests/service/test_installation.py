"""What an installation is known by: one identifier, whichever process asks first and wherever it runs."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import installation
from service.commands import serve
from service.errors import Permanent
from service.queue.jobs import Jobs
from service.settings import Settings, WebSettings


def test_every_process_finds_the_same_identifier(tmp_path: Path, engine: Engine) -> None:
    """Delivery workers in containers have directories of their own, which may be read-only."""
    apart = [Settings(data_directory=tmp_path / str(number)) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda settings: installation.device_uid(settings, engine), apart))
    assert len(found) == 1
    assert found.pop().startswith("2.25.")
    assert list(tmp_path.glob("*/*")) == []


def test_the_identifier_that_an_earlier_version_kept_in_a_file_stays(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "device_uid").write_text("2.25.4711\n", encoding="ascii")
    settings = Settings(data_directory=tmp_path)
    assert installation.device_uid(settings, engine) == "2.25.4711"
    (tmp_path / "device_uid").unlink()
    assert installation.device_uid(settings, engine) == "2.25.4711"


def test_the_identifier_that_is_set_goes_first(tmp_path: Path, engine: Engine) -> None:
    settings = Settings(data_directory=tmp_path, device_uid="2.25.7")
    assert installation.device_uid(settings, engine) == "2.25.7"


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    with installation.locked(tmp_path), pytest.raises(Permanent, match="uses"), installation.locked(tmp_path):
        pass
    with installation.locked(tmp_path):
        pass


def test_the_line_that_says_we_are_ready_has_an_address_that_a_browser_takes(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    web = WebSettings(host="::1", port=8443)
    settings = Settings(data_directory=tmp_path, scp_host="127.0.0.1", scp_port=11112, web=web)
    stopping = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    stopping.start()
    try:
        serve.supervise(settings, Jobs(engine), [])
    finally:
        stopping.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "CARPUS at 127.0.0.1:11112, admin page http://[::1]:8443/, data in" in capsys.readouterr().out
