"""The pages as a browser meets them: a real server, over TLS, behind a proxy."""

import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from pydantic import ValidationError

from service.settings import WebSettings
from tests.certificates import client_hello, folder
from tests.integration.serving import ROOT, free_ports
from tests.service.people import CHEAP

pytestmark = pytest.mark.integration


@contextmanager
def web(where: Path, **settings: Any) -> Iterator[int]:
    """Run `carpus web`; yield its port."""
    port = settings.get("port") or free_ports(1)[0]
    config = where / "carpus.yaml"
    values = {
        "data_directory": str(where / "data"),
        "web": {"port": port, "password_hash": CHEAP, "secret_key": "s" * 40, **settings},
    }
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    with (where / "web.log").open("wb") as log:
        command = [sys.executable, "-m", "service", "web", "--config", str(config)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        deadline = time.monotonic() + 60
        while not reached(port):
            assert process.poll() is None, (where / "web.log").read_text()
            assert time.monotonic() < deadline, (where / "web.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def reached(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder() / "authority.pem"))


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, **options: Any
) -> tuple[http.client.HTTPResponse, str]:
    connection.request(method, path, **options)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_over_tls_old_versions_are_refused_and_cookies_are_secure(tmp_path: Path) -> None:
    pem, key = str(folder() / "CARPUS.pem"), str(folder() / "CARPUS.key")
    with web(tmp_path, certificate=pem, key=key) as port:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting(), timeout=20)
        page, _ = ask(connection, "GET", "/login")
        assert "Secure" in page.getheader("set-cookie", "")
        assert "max-age" in page.getheader("strict-transport-security", "")
        connection.close()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as old:
            old.sendall(client_hello(0x0302))
            assert old.recv(7)[:1] in (b"", b"\x15")  # closed, or an alert; never a ServerHello
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            plain.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\n\r\n")
            with suppress(ConnectionResetError):
                assert b"HTTP" not in plain.recv(100)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(tmp_path: Path, trusted: bool) -> None:
    with web(tmp_path, trusted_proxies=["127.0.0.1/32"] if trusted else []) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

        def try_wrong_password(address: str, name: str) -> int:
            page, text = ask(connection, "GET", "/login")
            (csrf,) = re.findall(r'name="csrf" value="([^"]+)"', text)
            headers = {
                "Content-Type": "application/x-www-form-urlencoded",
                "Cookie": page.getheader("set-cookie", "").split(";")[0],
                "X-Forwarded-For": address,
            }
            form = urlencode({"csrf": csrf, "user": name, "password": "wrong"})
            return ask(connection, "POST", "/login", body=form, headers=headers)[0].status

        # Another forged address and another name at each try: without a trusted proxy the real address is counted.
        tried = [try_wrong_password(f"10.9.9.{number}", f"name {number}") for number in range(7)]
        assert tried == [401] * 7 if trusted else tried == [401] * 5 + [429] * 2
        connection.close()


def test_the_pages_do_not_start_in_the_clear_on_a_network() -> None:
    with pytest.raises(ValidationError, match="would send passwords in the clear"):
        WebSettings(host="0.0.0.0")
    assert WebSettings(host="0.0.0.0", secure_cookies=True).over_tls
    assert WebSettings(host="::1").over_tls is False
    assert WebSettings(host="[::1]").host == "::1"  # as it stands in an address of a browser
