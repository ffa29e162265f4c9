"""Fill an installation with films in every state, through the repository that the service itself uses."""

import datetime as dt
import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from models.image import Image
from models.reading import Reading
from service import db
from service.deidentification.deidentify import for_inference
from service.queue.jobs import Jobs, ReceivedInstance, State
from service.settings import Destination, Peer, Settings
from service.storage import Store
from service.tables import Job, ResultState
from service.trust.pseudonyms import Pseudonyms
from service.wrap import Patient, wrap
from tests.service import readings

BEGAN = dt.datetime(2026, 11, 20, 8, 0, tzinfo=dt.UTC)
PATIENT = Patient("Zeugmann^Ottilie", "MRN-4711-77", "F", dt.date(2016, 5, 4))
# Words of the patient that no page may show.
SECRETS = ("Zeugmann", "Ottilie", "MRN-4711-77", "20160504")


@cache
def empty_database() -> bytes:
    """Return a migrated database without rows; made once, because sixty tests need one each."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite"
        engine = db.connect(f"sqlite:///{path}")
        db.migrate(engine)
        engine.dispose()  # the last connection folds the write-ahead log into the file
        return path.read_bytes()


@dataclass
class Clock:
    """A clock that a test moves."""

    at: dt.datetime = BEGAN

    def __call__(self) -> dt.datetime:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at += dt.timedelta(seconds=seconds)


@dataclass
class Installation:
    """A data directory with its database, and how to put films into it."""

    folder: Path
    picture: Image = field(default_factory=readings.image)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.settings = Settings(
            data_directory=self.folder,
            peers=(Peer(ae_title="PACS"), Peer(ae_title="DX_ROOM_2", addresses=("10.20.0.0/16",))),
            destinations=(Destination(name="archive", ae_title="ORTHANC", host="127.0.0.1", port=4242),),
        )
        (self.folder / "carpus.sqlite").write_bytes(empty_database())
        engine = db.connect(self.settings.resolved_database_url)
        self.jobs = Jobs(engine, process="worker inference 4712", clock=self.clock)
        self.store = Store(self.folder / "deidentified")
        self.count = 0

    def receive(self, *, peer: str = "PACS", byte_count: int = 6_151_424) -> int:
        """Return the number of a new job."""
        self.count += 1
        number = self.count
        received = ReceivedInstance(
            SOPInstanceUID=f"1.2.826.0.1.3680043.{number}.1",
            SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
            StudyInstanceUID=f"1.2.826.0.1.3680043.{number}",
            SeriesInstanceUID=f"1.2.826.0.1.3680043.{number}.2",
            TransferSyntaxUID="1.2.840.10008.1.2.4.90",
            digest=f"blake3:{number:064x}",
            byte_count=byte_count,
            name=f"ab/{number:032x}.dcm",
            calling_ae_title=peer,
            called_ae_title="CARPUS",
            address="127.0.0.1",
        )
        self.jobs.record_instance(received)
        self.clock.pass_by(0.6)
        return self.jobs.find(received.SOPInstanceUID)[0].id

    def prepare(self, **options: str) -> int:
        """Take a new film to PREPARED, its copy without identity in the store."""
        job_id = self.receive(**options)
        film = wrap(self.picture, PATIENT, kind="DX", study=job_id)
        buffer = io.BytesIO()
        for_inference(film, Pseudonyms(b"k" * 32)).save_as(buffer, enforce_file_format=True)
        stored = self.store.write(buffer.getvalue())
        claim = self._claim(job_id, State.RECEIVED)
        self.jobs.advance(claim, State.PREPARED, deidentified_name=stored.name, sex="F", age_days=3834)
        return job_id

    def infer(self, reading: Reading | None = None, **options: str) -> int:
        """Take a new film to INFERRED."""
        job_id = self.prepare(**options)
        claim = self._claim(job_id, State.PREPARED)
        self.clock.pass_by(1.9)
        found = reading or readings.reading()
        timings = {"detect": 412.0, "segment": 96.0, "grade": 230.0, "regress": 120.0}
        self.jobs.advance(
            claim,
            State.INFERRED,
            "read",
            timings_ms=timings,
            outcome="reading",
            reading=found.to_json(),
            read_at=self.clock(),
        )
        return job_id

    def deliver(self, reading: Reading | None = None, *, refused: bool = False, **options: str) -> int:
        """Take a new film to DELIVERED, four objects sent; one of them refused, the job stays in INFERRED."""
        job_id = self.infer(reading, **options)
        claim = self._claim(job_id, State.INFERRED)
        kinds = {"SR": "88.33", "SC": "7", "GSPS": "11.1", "SEG": "66.4"}
        built = [
            {
                "destination": "archive",
                "kind": kind,
                "SOPClassUID": f"1.2.840.10008.5.1.4.1.1.{suffix}",
                "SOPInstanceUID": f"2.25.{job_id}{position}",
                "SeriesInstanceUID": f"2.25.{job_id}{position}9",
                "name": f"ab/{job_id}-{kind.lower()}.dcm",
                "sha256": "0" * 64,
            }
            for position, (kind, suffix) in enumerate(kinds.items())
        ]
        self.jobs.record_results(claim, "archive", built)
        for row in self.jobs.results(job_id):
            bad = refused and row.kind == "SEG"
            state = ResultState.REFUSED if bad else ResultState.ACCEPTED
            self.jobs.record_status(job_id, "archive", row.SOPInstanceUID, state, 0xA900 if bad else 0x0000)
        self.clock.pass_by(0.4)
        if refused:
            text = "archive refused the SEG with status 0xA900 (data set does not match SOP class)"
            self.jobs.fail(claim, "pacs-refused", text, "give archive a profile without SEG, then retry")
        else:
            self.jobs.advance(claim, State.DELIVERED, "4 objects to archive")
        return job_id

    def confirm(self, reading: Reading | None = None, **options: str) -> int:
        """Take a new film to CONFIRMED."""
        job_id = self.deliver(reading, **options)
        claim = self._claim(job_id, State.DELIVERED)
        for row in self.jobs.results(job_id):
            self.jobs.record_status(job_id, "archive", row.SOPInstanceUID, ResultState.CONFIRMED)
        self.clock.pass_by(1.1)
        self.jobs.advance(claim, State.CONFIRMED, "storage commitment")
        return job_id

    def reject(
        self,
        code: str = "not-a-hand",
        text: str = "No hand was found on this film.",
        **cause: str,
    ) -> int:
        """Take a new film to REJECTED; `cause` are the columns that sum its reasons up."""
        job_id = self.receive()
        claim = self._claim(job_id, State.RECEIVED)
        self.jobs.advance(
            claim, State.INFERRED, "rejected", outcome="rejection", reasons=[{"code": code, "text": text}]
        )
        claim = self._claim(job_id, State.INFERRED)
        self.jobs.advance(claim, State.REJECTED, "reason sent to archive", **cause)
        return job_id

    def wait_for_retry(self, code: str, text: str, next_action: str) -> int:
        """Leave a new film in INFERRED, waiting for its PACS."""
        job_id = self.infer()
        claim = self._claim(job_id, State.INFERRED)
        self.jobs.retry_later(claim, code, text, dt.timedelta(minutes=2), next_action)
        return job_id

    def quarantine(self, code: str, text: str, *, peer: str = "PACS", sha256: str = "f" * 64) -> None:
        """Put a file into quarantine."""
        self.jobs.record_quarantine(
            code=code,
            text=text,
            name="cd/cd00.dcm",
            sha256=sha256,
            SOPInstanceUID=None,
            calling_ae_title=peer,
            address="10.20.1.7",
        )

    def _claim(self, job_id: int, state: State) -> Job:
        claim = self.jobs.claim(job_id, state)
        assert claim is not None
        self.clock.pass_by(0.15)
        return claim
