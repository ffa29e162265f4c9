"""Attacks on the pages."""

import http.client
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from pydicom import Dataset
from sqlalchemy import inspect

from benchmarks.attacks.dicom import Succeeded
from benchmarks.attacks.house import PASSWORD, House
from models import phantom
from service import db
from service.sending import requestor, scu
from service.settings import load
from service.wrap import Patient, wrap
from tests.raw_peer import RawPeer

HOSTILE = "<script>alert(1)</script>^'; DROP TABLE jobs; --"
SILENT = 100


@dataclass
class Browser:
    """Somebody with a cookie."""

    port: int
    cookie: str = ""

    def ask(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        """Return status and text of an answer; keep the cookie it sets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = urlencode(form) if form is not None else None
        sent: dict[str, str] = {"Cookie": self.cookie, **headers}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        kept = [value.split(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie"]
        set_now = [value for value in kept if not value.endswith(('=""', "="))]
        if set_now:
            self.cookie = "; ".join(set_now)
        connection.close()
        return answer.status, text

    def token(self, path: str) -> str:
        """Return the token of the first form of a page."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.ask("GET", path)[1])
        if found is None:
            raise RuntimeError(f"{path} has no form")
        return found[1]

    def log_in(self, user: str, password: str = PASSWORD) -> int:
        """Return the status of a log-in."""
        form = {"user": user, "password": password, "csrf": self.token("/login"), "next": "/"}
        return self.ask("POST", "/login", form)[0]


def hostile_names(house: House) -> str:
    """Store a film with SQL and HTML in the patient's name, the study's description and the AE title, then look at every page."""
    drawn = phantom.draw(7, age_years=9, sex="F", rows=400, columns=320).image
    film: Dataset = wrap(drawn, Patient(HOSTILE, HOSTILE[:60], "F"), kind="CR")
    film.StudyDescription = film.AccessionNumber = HOSTILE[:16]
    film.StationName = HOSTILE[:16]
    (sent,) = scu.store(requestor.Address("CARPUS", "127.0.0.1", house.scp.port), [film], calling_ae_title="PACS")
    if not sent.accepted:
        raise Succeeded(f"the film was refused: {sent.error}")  # it is a legal name, and the child is to be read
    seen = 0
    for user in ("viewer", "radiologist", "admin"):
        browser = Browser(house.web_port)
        if browser.log_in(user) != 303:
            raise RuntimeError(f"{user} cannot log in")
        asked = "/?q=" + quote(HOSTILE)
        for path in (
            "/",
            "/films/1",
            "/quarantine",
            "/queues",
            "/system",
            asked,
            "/films/1' OR '1'='1",
            "/login?next=" + quote(HOSTILE),
        ):
            status, text = browser.ask("GET", quote(path, safe="/?=&%"))
            seen += 1
            if "<script>alert" in text or status >= 500:
                raise Succeeded(f"{path} as {user}: {status}")
    engine = db.connect(load(house.folder / "carpus.yaml").resolved_database_url)
    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    if "jobs" not in tables:
        raise Succeeded("a table is gone")
    return f"stored (the name is legal); {seen} pages show it nowhere or as text, every table is there"


def replayed_cookie(house: House) -> str:
    """Use the cookie of a session again after its log-out."""
    browser = Browser(house.web_port)
    browser.log_in("admin")
    stolen = browser.cookie
    if browser.ask("GET", "/system")[0] != 200:
        raise RuntimeError("the log-in did not work")
    browser.ask("POST", "/logout", {"csrf": browser.token("/")})
    status, _ = Browser(house.web_port, stolen).ask("GET", "/system")
    if status != 303:
        raise Succeeded(f"the page was shown: {status}")
    return "303 to the log-in page"


def foreign_form(house: House) -> str:
    """Send the form of another site with the victim's cookie."""
    browser = Browser(house.web_port)
    browser.log_in("admin")
    stolen = browser.cookie
    status, _ = Browser(house.web_port, stolen).ask(
        "POST", "/films/1/cancel", {"csrf": "guessed"}, Origin="https://evil.example"
    )
    if status != 403:
        raise Succeeded(f"answered {status}")
    return "403"


def weaker_role(house: House) -> str:
    """As a viewer, ask for what is an administrator's."""
    browser = Browser(house.web_port)
    browser.log_in("viewer")
    found = {
        path: browser.ask(method, path)[0]
        for method, path in (("GET", "/system"), ("GET", "/quarantine"), ("POST", "/films/1/cancel"))
    }
    if set(found.values()) != {403}:
        raise Succeeded(str(found))
    return "403 each"


def guessed_passwords(house: House) -> str:
    """Try passwords until locked out, then the right one. The last attack: it locks out this address."""
    browser = Browser(house.web_port)
    tried = [browser.log_in("radiologist", f"guess number {number}") for number in range(5)]
    right = browser.log_in("radiologist")
    if tried != [401] * 5 or right != 429:
        raise Succeeded(f"{tried}, then {right}")
    return "401 five times, then 429 also for the right one, for 15 min"


def silent_visitors(house: House) -> str:
    """Open 100 connections to the pages and send half a request."""
    with ExitStack() as stack:
        for _ in range(SILENT):
            peer = stack.enter_context(RawPeer(house.web_port))
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        status, _ = Browser(house.web_port).ask("GET", "/health/live")
        took = time.monotonic() - started
    if status != 200 or took > 2:
        raise Succeeded(f"{status} after {took:.1f} s")
    return "others are served meanwhile"


def large_body(house: House) -> str:
    """Post 20 MB to the log-in page."""
    status, _ = Browser(house.web_port).ask("POST", "/login", {"user": "x" * 20_000_000})
    if status != 413:
        raise Succeeded(f"answered {status}")
    return "413 after 16 kB"
