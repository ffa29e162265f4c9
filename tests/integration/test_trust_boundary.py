"""One seeded film through the whole service: no byte of its identity on the other side of the trust boundary."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from sqlalchemy import select
from starlette.testclient import TestClient

from models.reading import Reading
from service import log
from service.deidentification.burned_in.recogniser import shared
from service.deidentification.confidentiality import load
from service.pipeline import Pipeline
from service.queue.jobs import State
from service.settings import Destination, WebSettings
from service.tables import Heartbeat, Job, JobEvent
from service.trust.accounts import Accounts
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault
from service.web.app import create_app
from service.web.credentials import Credentials
from service.web.guard import COOKIE
from service.web.sessions import Sessions
from tests.factories import film, instance
from tests.integration.test_workers import House
from tests.listening import Running, start
from tests.service import readings
from tests.service.seeded import Seeds, from_bytes, seed, to_bytes
from tests.service.test_confidentiality import FRAME, IN_FILES
from tests.service.test_pipeline import FakePacs, FakeReader
from tests.writing import ink, write

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
# Where identity belongs: the received files, the results that go back, what cannot be used, the keys, and the database.
IDENTIFIED = ("identified", "results", "quarantine", "keys", "carpus.sqlite")
WRITTEN = "OUYANG 4711"  # in the pixels
HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = start(tmp_path, destinations=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104),))
    with made.server:
        yield made
    made.jobs.engine.dispose()


def seeded() -> tuple[Any, Seeds]:
    """Return a film with a marker in every attribute of the table, in private ones, an overlay and the file meta."""
    picture = film(readings.ROWS, readings.COLUMNS)
    write(picture, ink(WRITTEN, 24), 12, 12, 4095)
    ds = instance(kind="DX", picture=picture)
    seeds = Seeds()
    seed(ds, IN_FILES, seeds, without=FRAME)
    ds.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", seeds.value(0x00090001, "LO"))
    ds.add_new(0x60000022, "LO", seeds.value(0x60000022, "LO"))
    ds.add_new(0x60003000, "OW", seeds.value(0x60003000, "OW"))
    seeds.markers[0x00080018] = [str(ds.SOPInstanceUID).encode()]
    return from_bytes(to_bytes(ds)), seeds


def written_on(ds: Any) -> bool:
    """Whether the recogniser reads the line in the corner."""
    corner = np.clip(ds.pixel_array[:60, :300] / 16, 0, 255).astype(np.uint8)
    lines = [corner[y1:y2, x1:x2] for x1, y1, x2, y2 in (line.box for line in shared().find(corner))]
    return any("4711" in text.text or "OUY" in text.text for line in lines for text in shared().read(line))


def test_no_identifier_of_a_seeded_film_crosses_the_trust_boundary(running: Running, tmp_path: Path) -> None:
    captured = io.StringIO()
    log.configure("DEBUG", stream=captured)
    ds, seeds = seeded()
    assert running.send(ds) == [0x0000]
    jobs = running.jobs
    (job,) = jobs.list()
    pacs = FakePacs()
    pipeline = Pipeline(
        jobs,
        running.stores,
        running.settings,
        pseudonyms=Pseudonyms.open(tmp_path),
        vault=Vault(tmp_path / "keys" / "vault.sqlite", Pseudonyms.open(tmp_path)),
        reader=FakeReader(),  # type: ignore[arg-type]
        device_uid="2.25.1",
        send=pacs,
        probe=pacs.probe,
    )
    messages, searched = b"", set()
    with ExitStack() as stack:
        house = House(tmp_path, stack)
        for state, step in [
            (State.RECEIVED, pipeline.prepare),
            (State.PREPARED, pipeline.infer),
            (State.INFERRED, pipeline.deliver),
        ]:
            if state in (State.PREPARED, State.INFERRED):
                assert house.publisher.publish(job.id, state)
            claim = jobs.claim(job.id, state)
            assert claim is not None
            step(claim)
        house.engine.dispose()
        for path in tmp_path.rglob("*"):  # while Redis is up, with whatever it has written
            if path.is_file() and not str(path.relative_to(tmp_path)).startswith(IDENTIFIED):
                messages += path.read_bytes()
                searched.add(path.relative_to(tmp_path).parts[0])
    assert jobs.get(job.id).state == State.DELIVERED
    assert {"deidentified", "redis"} <= searched

    session = Sessions("s" * 40)
    settings = running.settings.model_copy(update={"web": WebSettings(password_hash=HASH, secret_key="s" * 40)})
    client = TestClient(create_app(settings, jobs, Credentials.open(settings), sessions=session))
    as_of = next(user.changed_at for user in Accounts(jobs.engine).list() if user.name == "admin")
    client.cookies.set(COOKIE, session.begin("admin", as_of, "testclient")[1])
    paths = ("/", f"/films/{job.id}", "/quarantine", "/system", "/metrics", "/health/ready")
    pages = "".join(client.get(path).text for path in paths).encode()
    with jobs.engine.connect() as connection:
        rows = str([tuple(row) for table in (Job, JobEvent, Heartbeat) for row in connection.execute(select(table))])

    # The markers are there to be found where they belong, else this test would prove nothing.
    (received,) = (running.stores.identified.read(name) for name in running.stores.identified.names())
    assert len(seeds.left_in(received)) > 550
    assert Reading.from_json(jobs.get(job.id).reading).methods
    retained = {tag for tag in load().rows if load().rule(tag, image=True).letter == "K"}
    left = {
        "files": seeds.left_in(messages, besides=retained),
        "log": seeds.left_in(captured.getvalue().encode()),
        "pages": seeds.left_in(pages),
        "rows": seeds.left_in(rows.encode()),
    }
    assert left == {"files": {}, "log": {}, "pages": {}, "rows": {}}
    assert captured.getvalue(), "nothing was logged"
    assert len(seeds.left_in((tmp_path / "keys" / "vault.sqlite").read_bytes())) == 0
    (copy,) = (running.stores.deidentified.path(name) for name in running.stores.deidentified.names())
    assert written_on(ds)
    assert not written_on(dcmread(copy))
