"""Take one film from step to step: the one file that knows every stage.

Each step gets a claimed job, works with what was passed in, and ends with one `Jobs.advance`. It knows no queue and no socket:
who calls it, how often and what happens after an error is decided in `tasks`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final, Protocol, cast

from pydicom import Dataset

from models import pixels
from models.reader import Reader
from models.reading import Reading, Reason, Verdict
from models.regions import Sex
from service import priors, tracing
from service.amendments import amendment_of
from service.deidentification.burned_in.cleaning import clean_instance
from service.deidentification.deidentify import age_days, for_inference, patient_of
from service.errors import CarpusError, InvalidInstance, Permanent, Postponed, Retryable
from service.film_file import read_film
from service.profiles import Profiles
from service.queue.breakers import Breakers
from service.queue.jobs import WAITS_FOR_EARLIER, Claim, Jobs, ResultState, State
from service.queue.sendings import TO_SEND
from service.reporting import encoding, result_set, source, wording
from service.reporting.history import Prior
from service.reporting.results import ResultContext
from service.result_profile import ResultKind, ResultProfile
from service.routing import Outcome, route
from service.sending import requestor, scu
from service.sending.negotiation import Negotiation, Plan, Probe, plan
from service.settings import Destination, PriorSettings, Settings
from service.storage import Stores
from service.tables import Job, ResultObject
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault

DAYS_PER_YEAR: Final = 365.25
EARLIER_SECONDS: Final = (
    60.0  # a job that waits for another one of its patient is woken by it; else it looks this often
)


class Send(Protocol):
    """How instances leave; `scu.store` is the one that uses DICOM."""

    def __call__(
        self,
        address: requestor.Address,
        instances: Sequence[Any],
        *,
        calling_ae_title: str,
        timeout_seconds: float,
        maximum_pdu_size: int,
        on_sent: Callable[[scu.Sent], None],
    ) -> list[scu.Sent]:
        """Send the files over one association."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The three steps and what they work with; a process passes in what its own step needs.

    Parameters
    ----------
    pseudonyms
        For `prepare`.
    vault
        For `prepare`, which seals the header as received, and `deliver`, which alone opens it.
    reader
        For `infer`.
    device_uid
        For `deliver`: the identifier of this installation in every report.
    archive, load_reader
        For `deliver`: where earlier reports are looked up, and what reads an earlier film again.
    """

    jobs: Jobs
    stores: Stores
    settings: Settings
    pseudonyms: Pseudonyms | None = None
    vault: Vault | None = None
    reader: Reader | None = None
    device_uid: str = ""
    software_version: str = "0.1.0"
    send: Send = scu.store
    probe: Probe = scu.accepted_classes
    archive: Callable[[requestor.Address, str, PriorSettings], priors.Sought] = priors.archive
    load_reader: Callable[[], Reader] | None = None

    def prepare(self, claim: Claim) -> None:
        """Decide whether the film is read; if so, write the copy that inference may see."""
        assert self.pseudonyms is not None  # noqa: S101 - wiring, not input
        timings: dict[str, float] = {}
        with _timed(timings, "header read"):
            path = self.stores.identified.path(self.jobs.instance(claim.job.instance_id).name)
            film = read_film(path)
            decision = route(film)
        subject = self.pseudonyms.patient(patient_of(film))
        if decision.outcome is Outcome.FILTER:
            why = {"cause_code": decision.code, "cause_text": decision.text}
            return self.jobs.advance(claim, State.FILTERED, decision.text, timings_ms=timings, subject=subject, **why)
        if self.vault is not None:
            with _timed(timings, "header sealed"):
                self.vault.keep_header(claim.job.id, subject, source.sealed_part(path))
        if decision.outcome is Outcome.REJECT:
            return self._reject(claim, [Reason(decision.code, decision.text)], timings, subject=subject)
        try:
            with _timed(timings, "de-identified"):
                copy = for_inference(film, self.pseudonyms)
            with _timed(timings, "pixels cleaned"):
                cleaning = clean_instance(copy, film)
        except InvalidInstance as error:
            return self._reject(claim, [Reason(error.code, str(error))], timings, subject=subject)
        with _timed(timings, "copy written"):
            stored = self.stores.deidentified.write(_encoded(copy), name=f"job-{claim.job.id}")
        known: dict[str, Any] = {"sex": decision.sex, "age_days": age_days(film), "subject": subject}
        told = "" if cleaning is None else str(cleaning)
        if cleaning is not None and len(cleaning.markers) == 1:
            known["side_marker"] = cleaning.markers[0]
        return self.jobs.advance(
            claim, State.PREPARED, told, timings_ms=timings, deidentified_name=stored.name, **known
        )

    def infer(self, claim: Claim) -> None:
        """Read the de-identified film; what cannot be read becomes a rejection with its reasons."""
        assert self.reader is not None  # noqa: S101 - wiring, not input
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "decoded"):
                image = pixels.load(self.stores.deidentified.path(claim.job.deidentified_name or ""))
        except pixels.UnreadablePixels as error:
            return self._reject(claim, [Reason(error.code, error.text)], timings)
        age_years = None if claim.job.age_days is None else claim.job.age_days / DAYS_PER_YEAR
        reading = self.reader.read(image, cast("Sex | None", claim.job.sex), age_years).marked(claim.job.side_marker)
        timings |= reading.timings_ms
        tracing.annotate({f"ms.{part}": round(took, 1) for part, took in reading.timings_ms.items()})
        stored = {"reading": reading.to_json(), "bundle_sha256": reading.bundle.sha256}
        if not reading.verdict.accepted:
            return self._reject(claim, reading.verdict.reasons, timings, **stored)
        return self.jobs.advance(
            claim, State.INFERRED, timings_ms=timings, outcome="reading", read_at=self.jobs.now(), **stored
        )

    def deliver(self, claim: Claim) -> None:
        """Build the results from the original header and send them to every destination.

        Raises
        ------
        Retryable, Permanent
            When a destination did not take everything; what it took stays recorded and is not sent again.
        """
        if not self.settings.destinations:
            raise Permanent(
                "no destination is configured: the results have nowhere to go",
                code="no-destination",
                next_action="name the PACS under `destinations` in the configuration, restart, then retry the job",
            )
        timings: dict[str, float] = {}
        work = _Work(self, claim.job)
        with _timed(timings, "results built"):
            work.check()
        errors = []
        for destination in self.settings.destinations:
            try:
                self._deliver_to(destination, claim, work, timings)
            except CarpusError as error:
                errors.append(error)
        if errors:
            raise _chief(errors)
        if claim.job.outcome != "rejection":
            return self.jobs.advance(claim, State.DELIVERED, timings_ms=timings)
        reasons = claim.job.reasons or []
        why = {"cause_code": reasons[0]["code"], "cause_text": "; ".join(reason["text"] for reason in reasons)}
        why["next_action"] = wording.ADVICE.get(reasons[0]["code"], wording.DEFAULT_ADVICE).text("en")
        return self.jobs.advance(claim, State.REJECTED, why["cause_text"], timings_ms=timings, **why)

    def _reject(self, claim: Claim, reasons: Sequence[Reason], timings: Mapping[str, float], **fields: Any) -> None:
        listed = [{"code": reason.code, "text": reason.text} for reason in reasons]
        text = "cannot be read: " + "; ".join(reason.text for reason in reasons)
        outcome = {"outcome": "rejection", "reasons": listed, "read_at": self.jobs.now()}
        self.jobs.advance(claim, State.INFERRED, text, timings_ms=timings, **outcome, **fields)

    def _build(self, claim: Claim, destination: Destination, work: "_Work", breakers: Breakers) -> None:
        """Write every result of a destination to the store and record it; a later attempt finds them there, or makes them anew.

        What the destination has accepted already is not built again: it would be a second object of the same film.
        """
        rows = self._rows(destination, claim.job)
        left = [row for row in rows if row.state in TO_SEND]
        if claim.job.attempts > 1 and left and all(self.stores.results.holds(row.name, row.sha256) for row in left):
            return
        _, profile = Profiles(self.jobs.engine, self.settings).of(destination)
        rejected = claim.job.outcome == "rejection"
        try:
            accepted = self._negotiation.accepted(destination)
        except Retryable as error:
            breakers.failed(destination.name, error)
            raise
        planned = plan(profile, accepted, destination, rejection=rejected)
        for left_out in planned.left_out:
            self.jobs.note(claim.job.id, "not accepted", f"{destination.name} does not take {left_out}")
        priors = self._priors(claim.job, destination, work)
        objects = work.objects(self._context(claim.job, destination, profile, planned, priors))
        kept = {row.kind for row in rows if row.state in (ResultState.ACCEPTED, ResultState.CONFIRMED)}
        built = [self._stored(destination.name, kind, ds) for kind, ds in objects.items() if kind not in kept]
        self.jobs.record_results(claim, destination.name, built)

    @property
    def _negotiation(self) -> Negotiation:
        return Negotiation(self.jobs.engine, self.settings, probe=self.probe, clock=self.jobs.now)

    def _priors(self, job: Job, destination: Destination, work: "_Work") -> tuple[Prior, ...]:
        """Return the earlier bone ages of the patient; looked up once, so that a repeat makes the same report."""
        reading = work.reading
        if destination.priors is None or reading is None:
            return ()
        kept = self.jobs.priors(job.id, destination.name)
        if kept is not None:
            return priors.from_stored(kept)
        sought = self.archive(
            requestor.address_of(destination, self.settings), self.settings.ae_title, destination.priors
        )
        found = priors.find(sought, work.film(), reading, destination.priors, reader=self.load_reader)
        self.jobs.record_priors(job.id, destination.name, priors.to_stored(found.priors), found.note)
        return found.priors

    def _context(
        self,
        job: Job,
        destination: Destination,
        profile: ResultProfile,
        planned: Plan,
        earlier: tuple[Prior, ...] = (),
    ) -> ResultContext:
        settled: dict[str, Any] = {} if planned.report_class is None else {"report_class": planned.report_class}
        return ResultContext(
            device_uid=self.device_uid,
            created_at=job.read_at or self.jobs.now(),
            language=profile.language,
            institution_name=self.settings.institution_name,
            device_serial_number=self.settings.device_serial_number,
            software_version=self.software_version,
            profile=f"{destination.name} {profile.fingerprint}",
            revision=job.revision,
            kinds=planned.kinds,
            series=profile.labels(),
            picture_modality=profile.picture_modality,
            **settled,
            priors=earlier,
            amendment=amendment_of(self.jobs, job, destination.name),
        )

    def _stored(self, destination: str, kind: str, ds: Dataset) -> dict[str, str]:
        """Write one object under a name that follows from its UID, so that a repeat replaces it."""
        stored = self.stores.results.write(encoding.encoded(ds), name=str(ds.SOPInstanceUID).replace(".", "-"))
        uids = {keyword: str(ds[keyword].value) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")}
        return {"destination": destination, "kind": kind, **uids, "name": stored.name, "sha256": stored.sha256}

    def _deliver_to(self, destination: Destination, claim: Claim, work: "_Work", timings: dict[str, float]) -> None:
        """Send what this destination has neither accepted nor refused for good, in order per patient; record each answer."""
        job, rows = claim.job, self._rows(destination, claim.job)
        if rows and all(row.state not in TO_SEND for row in rows):
            return _say_refused(destination, rows, job)
        breakers = Breakers(self.jobs, self.settings.breaker)
        breakers.check(destination.name)
        earlier = self.jobs.earlier_unsent(job, destination.name)
        if earlier is not None:
            text = f"the results of job {earlier}, of the same patient, go to {destination.name} first"
            raise Postponed(text, seconds=EARLIER_SECONDS, code=WAITS_FOR_EARLIER)
        with _timed(timings, "results built"):
            self._build(claim, destination, work, breakers)
        waiting = [row for row in self._rows(destination, job) if row.state in TO_SEND]
        with _timed(timings, f"sent to {destination.name}", "send", **_whereto(destination, self.settings)):
            self._send(destination, job, waiting, breakers)

    def _rows(self, destination: Destination, job: Job) -> list[ResultObject]:
        return [row for row in self.jobs.results(job.id) if row.destination == destination.name]

    def _send(self, destination: Destination, job: Job, waiting: Sequence[ResultObject], breakers: Breakers) -> None:
        if not waiting:
            return

        def record(sent: scu.Sent) -> None:
            if sent.status is not None:
                tracing.event("C-STORE response", {"sop_class": sent.SOPClassUID, "status": f"0x{sent.status:04X}"})
            if sent.accepted or sent.status is not None or isinstance(sent.error, Permanent):
                refused = ResultState.REFUSED if isinstance(sent.error, Permanent) else ResultState.BUILT
                state = ResultState.ACCEPTED if sent.accepted else refused
                self.jobs.record_status(job.id, destination.name, sent.SOPInstanceUID, state, sent.status)

        try:
            sent = self.send(
                requestor.address_of(destination, self.settings),
                [self.stores.results.path(row.name) for row in waiting],
                calling_ae_title=self.settings.ae_title,
                timeout_seconds=destination.timeout_seconds,
                maximum_pdu_size=self.settings.limits.maximum_pdu_size,
                on_sent=record,
            )
        except Permanent:  # of the association: it holds for every object
            for row in waiting:
                self.jobs.record_status(job.id, destination.name, row.SOPInstanceUID, ResultState.REFUSED)
            breakers.succeeded(destination.name)  # it answers; what it says is for a person
            raise
        except Retryable as error:
            breakers.failed(destination.name, error)
            raise
        errors = [each.error for each in sent if each.error is not None]
        passing = next((error for error in errors if isinstance(error, Retryable)), None)
        if passing is not None:
            breakers.failed(destination.name, passing)
        else:
            breakers.succeeded(destination.name)
        if any(error.code == "sop-class-refused" for error in errors):
            self._negotiation.forget(destination)
        if errors:
            raise _chief(errors)


def _whereto(destination: Destination, settings: Settings) -> dict[str, str | int]:
    """Return what a trace says of a destination."""
    return {
        "destination": destination.name,
        "called_ae_title": destination.ae_title,
        "calling_ae_title": settings.ae_title,
        "server.address": destination.host,
        "server.port": destination.port,
    }


def _chief(errors: Sequence[CarpusError]) -> CarpusError:
    """Return what is recorded of several failures: what a person has to change first, but as final only if nothing may pass."""
    permanent = next((error for error in errors if isinstance(error, Permanent)), None)
    passing = sorted((e for e in errors if not isinstance(e, Permanent)), key=lambda e: isinstance(e, Postponed))
    if permanent is None:
        return passing[0]
    if not passing:
        return permanent
    return Retryable(str(permanent), code=permanent.code, next_action=permanent.next_action)


def _say_refused(destination: Destination, rows: Sequence[ResultObject], job: Job) -> None:
    """Raise again what kept a destination from taking its results, where it refused some for good at an earlier attempt."""
    refused = [row.kind for row in rows if row.state == ResultState.REFUSED]
    if refused:
        text = job.cause_text or f"{destination.name} refused {', '.join(refused)}"
        raise Permanent(text, code=job.cause_code or "refused", next_action=job.next_action or "")


class _Work:
    """What all destinations of one delivery share: the header, the Reading and the pixels, each loaded once."""

    def __init__(self, pipeline: Pipeline, job: Job) -> None:
        self._pipeline = pipeline
        self._path = pipeline.stores.identified.path(pipeline.jobs.instance(job.instance_id).name)
        self._job = job
        self._vault = pipeline.vault
        self.film = cache(self._source)
        self.image = cache(lambda: pixels.load(self._path))

    def _source(self) -> source.Source:
        """Return the header under seal; the file's own where none was sealed, as of a film prepared by an earlier version."""
        header = None if self._vault is None else self._vault.header(self._job.id)
        return source.load(self._path if header is None else BytesIO(header))

    @property
    def reading(self) -> Reading | None:
        """The Reading that is delivered; None for a film that was not read."""
        if self._job.reading is None or self._job.outcome != "reading":
            return None
        return Reading.from_json(self._job.reading)

    def check(self) -> None:
        """Refuse a header that can carry no result: the same fault for every destination.

        Raises
        ------
        InvalidInstance
            When an identifier is missing or malformed, or another instance of the study states another patient: a result that
            takes this header for its own would then stand with a stranger.
        """
        film = self.film()
        for other in self._pipeline.jobs.siblings(self._job.instance_id):
            path = self._pipeline.stores.identified.path(other.name)
            found = source.conflicts(film, source.load(path)) if path.exists() else ()
            if found:
                raise InvalidInstance(
                    f"another instance of this study (received {other.received_at:%Y-%m-%d %H:%M} UTC) states another "
                    f"{', '.join(found)}: the study holds two patients",
                    code="conflicting-patient",
                    next_action=f"correct {', '.join(found)} in the PACS; cancel the job of the film that is wrong, then retry",
                )

    def objects(self, context: ResultContext) -> dict[ResultKind, Dataset]:
        """Build everything one destination gets."""
        job, read = self._job, self.reading
        if read is not None:
            return result_set.of_reading(self.film(), read, context, self.image)
        reading = Reading.from_json(job.reading) if job.reading else None
        verdict = Verdict(False, tuple(Reason(**reason) for reason in job.reasons or ()))
        bundle = reading.bundle if reading else None
        return result_set.of_rejection(self.film(), verdict, context, self.image, bundle=bundle)


def _encoded(ds: Dataset) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@contextmanager
def _timed(timings: dict[str, float], name: str, span: str = "", **told: str | int) -> Iterator[None]:
    """Time the block for the timeline, and trace it, under a name of its own where the first one names a destination."""
    started = time.perf_counter()
    try:
        with tracing.span(span or name, kind="CLIENT" if told else "INTERNAL", attributes=told):
            yield
    finally:
        timings[name] = timings.get(name, 0.0) + (time.perf_counter() - started) * 1000
