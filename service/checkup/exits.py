"""Walk the way out to one PACS and back: association, SOP classes, test objects, proof that they are kept, move, earlier reports.

Each step needs the ones before it; what cannot be tried any more is said to be skipped.
"""

import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from service import priors
from service.checkup.finding import Finding, Verdict, failed, good, skipped
from service.checkup.samples import PATIENT
from service.conformance import RESULT_CLASSES
from service.errors import CarpusError
from service.queue.jobs import Jobs
from service.result_profile import ResultKind, ResultProfile
from service.sending import commitment, query, requestor, scu
from service.sending.confirmer import record_of, taker
from service.sending.negotiation import plan
from service.settings import Destination, Settings

NO_CONNECTION: Final = ("peer-unreachable", "association-aborted", "tls-broken-off", "tls-handshake-late")
PROBE_SECONDS: Final = 5.0  # for a TLS handshake that tells what a port speaks
ALERTS: Final = ("TLSV1", "SSLV3_ALERT", "TLS_ALERT", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS")
REPORT_SECONDS: Final = 15.0  # that a commitment report on the test objects is awaited
UNHEARD: Final = "start `carpus serve` or `carpus scp`: our own listener does not run, so nothing of the PACS arrives"
SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def speaks_tls(host: str, port: int, seconds: float) -> bool | None:
    """Whether TLS is spoken at a port, None where nobody takes a connection. Nothing is sent over it and nobody is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except OSError:
        return None
    with connection:
        try:
            with context.wrap_socket(connection):
                return True
        except ssl.SSLError as error:
            return error.reason is not None and error.reason.startswith(
                ALERTS
            )  # it answered in TLS, if only to refuse us
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Exit:
    """One destination and what its examination needs.

    Parameters
    ----------
    make
        Makes the test objects, given the kinds and the report class that the PACS takes; None leaves stores out.
    listening
        Whether our own listener runs: without it nothing that the PACS sends to us can arrive.
    """

    destination: Destination
    profile: ResultProfile
    settings: Settings
    jobs: Jobs
    make: Callable[[ResultProfile], list[Dataset]] | None
    report_seconds: float = REPORT_SECONDS
    listening: bool = True

    @property
    def place(self) -> str:
        """What the lines of this destination stand under."""
        return f"to {self.destination.name}"

    @property
    def _address(self) -> requestor.Address:
        return requestor.address_of(self.destination, self.settings)

    @property
    def _calling(self) -> str:
        return self.settings.ae_title

    @property
    def _seconds(self) -> float:
        return self.destination.timeout_seconds

    def look(self) -> Iterator[Finding]:
        """Yield what was found on the way out and back."""
        yield self.listed()
        answered = self.answers()
        yield answered
        if answered.verdict != Verdict.GOOD:
            yield skipped(self.place, "everything else", "no association comes about")
            if self.destination.priors is not None and self.destination.priors.web is not None:
                yield from self.earlier([])  # another way, to another port
            return
        accepted: frozenset[str] = frozenset()
        try:
            pairs = self.accepted()
            accepted = frozenset(str(uid) for uid, _ in pairs)
            yield from self.classes(pairs)
        except CarpusError as error:
            yield failed(self.place, "SOP classes", error)
        kept: list[Dataset] = []
        if self.make is None:
            yield skipped(self.place, "test objects", "--read-only")
        elif accepted:
            kept = yield from self.stored(accepted)
        yield from self.proof(kept)
        yield from self.found(kept)
        yield self.moved(kept)
        yield from self.earlier(kept)

    def answers(self) -> Finding:
        """Say whether the PACS answers C-ECHO, and what is wrong where it does not."""
        try:
            milliseconds = scu.echo(self._address, calling_ae_title=self._calling, timeout_seconds=self._seconds)
        except CarpusError as error:
            return self.unanswered(error)
        over = "TLS" if self.destination.tls else "plain DICOM"
        where = f"{self.destination.ae_title} at {self.destination.host}:{self.destination.port}"
        words = f"{where} answered in {milliseconds:.0f} ms over {over}; it knows {self._calling}"
        return good(self.place, "C-ECHO", words)

    def unanswered(self, error: CarpusError) -> Finding:
        """Say why no association came about; where the connection itself failed, look who listens and what is spoken there."""
        if error.code not in NO_CONNECTION:
            return failed(self.place, "C-ECHO", error)
        ours, named = self.destination, f"destinations.{self.destination.name}"
        spoken = speaks_tls(ours.host, ours.port, min(self._seconds, PROBE_SECONDS))
        if spoken is None:
            action = f"correct {named}.host or .port, start the PACS, or let the firewall pass {ours.host}:{ours.port}"
            return Finding(
                self.place, "C-ECHO", Verdict.FAILED, f"nobody takes a connection at {ours.host}:{ours.port}", action
            )
        if spoken and ours.tls is None:
            words = f"{ours.host}:{ours.port} speaks TLS, and we call it in plain DICOM"
            action = f"set {named}.tls (and dicom_tls: our certificate), or name the PACS's plain port in {named}.port"
            return Finding(self.place, "C-ECHO", Verdict.FAILED, words, action)
        if not spoken and ours.tls is not None:
            words = f"{ours.host}:{ours.port} takes connections and speaks no TLS, and {named}.tls is set"
            action = f"name the PACS's TLS port in {named}.port (often 2762), or take {named}.tls away"
            return Finding(self.place, "C-ECHO", Verdict.FAILED, words, action)
        if not spoken and error.code != "association-aborted":
            words = f"{ours.host}:{ours.port} takes connections and answers no association: it is no DICOM port, or drops us"
            action = (
                f"name the PACS's DICOM port in {named}.port (often 104, 4242 or 11112); or, in the PACS, enter "
                f"{self._calling} with the address of this machine"
            )
            return Finding(self.place, "C-ECHO", Verdict.FAILED, words, action)
        return failed(self.place, "C-ECHO", error)

    def listed(self) -> Finding:
        """Say whether the PACS may call us back with a commitment report."""
        title = self.destination.ae_title
        if any(peer.ae_title == title for peer in self.settings.peers):
            return good(self.place, "may call us", f"{title} is a listed peer")
        action = f"list {title} under `peers`, with the address it calls from"
        words = f"{title} is no listed peer: its storage commitment reports would be refused"
        return Finding(self.place, "may call us", Verdict.WARNING, words, action)

    def accepted(self) -> set[tuple[UID, UID]]:
        """Return the (SOP class, transfer syntax) pairs of our results that the PACS accepts."""
        wanted = [(uid, syntax) for kind in self.profile.objects for uid in self._classes(kind) for syntax in SYNTAXES]
        with requestor.associate(
            self._address, wanted, calling_ae_title=self._calling, timeout_seconds=self._seconds
        ) as peer:
            return {(UID(each.abstract_syntax), UID(each.transfer_syntax[0])) for each in peer.accepted_contexts}

    def classes(self, accepted: set[tuple[UID, UID]]) -> Iterator[Finding]:
        """Say for each kind of result in which class and transfer syntaxes the PACS takes it."""
        for kind in self.profile.objects:
            name = f"accepts {kind}"
            classes = self._classes(kind)
            taken = next((uid for uid in classes if any(uid == each for each, _ in accepted)), None)
            if taken is None:
                named = " or ".join(f"{uid.name} ({uid})" for uid in classes)
                action = f"in the PACS, allow {named} for {self._calling}; or leave {kind} out of the profile"
                yield Finding(self.place, name, Verdict.FAILED, f"no presentation context for {kind}", action)
            else:
                syntaxes = ", ".join(syntax.name for syntax in SYNTAXES if (taken, syntax) in accepted)
                yield good(self.place, name, f"{taken.name} in {syntaxes}")

    def stored(self, accepted: frozenset[str]) -> Generator[Finding, None, list[Dataset]]:
        """Store the test objects; return those that were accepted."""
        assert self.make is not None  # noqa: S101 - the caller looked
        try:
            planned = plan(self.profile, accepted, self.destination)
            made = self.make(self.profile.model_copy(update={"objects": planned.kinds}))
            sent = scu.store(
                self._address,
                [ds for ds in made if str(ds.SOPClassUID) in accepted],
                calling_ae_title=self._calling,
                timeout_seconds=self._seconds,
            )
        except CarpusError as error:
            yield failed(self.place, "test objects", error)
            return []
        for each in sent:
            if each.error is not None:
                yield failed(self.place, f"stores {UID(each.SOPClassUID).name}", each.error)
        uids = {each.SOPInstanceUID for each in sent if each.accepted}
        kept = [ds for ds in made if str(ds.SOPInstanceUID) in uids]
        if kept:
            kinds = ", ".join(str(ds.Modality) for ds in kept)
            words = f"{len(kept)} accepted ({kinds}) for patient {kept[0].PatientID}, study {kept[0].StudyInstanceUID}"
            yield good(self.place, "test objects", words)
        return kept

    def proof(self, kept: Sequence[Dataset]) -> Iterator[Finding]:
        """Ask for storage commitment of the test objects, or of nothing that exists."""
        name = "storage commitment"
        if not kept:
            yield skipped(self.place, name, "there are no test objects in the PACS to ask about")
            return
        record = record_of(self.settings, self.jobs)
        transaction_uid = record.ask(self.destination.name, [], record.now() + dt.timedelta(seconds=60))
        try:
            commitment.request(
                self._address,
                [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in kept],
                transaction_uid,
                calling_ae_title=self._calling,
                timeout_seconds=self._seconds,
                settled=lambda: record.is_settled(transaction_uid),
                hold_seconds=self.settings.confirmation.hold_seconds,
                handlers=[commitment.receive(taker(record, self.settings))],
            )
        except CarpusError as error:
            record.withdraw(transaction_uid, str(error))
            verdict = Verdict.FAILED if self.destination.confirm == "commitment" else Verdict.WARNING
            yield Finding(self.place, name, verdict, str(error), self._remedy(error))
            return
        end = time.monotonic() + self.report_seconds
        while (said := record.outcome(transaction_uid)) is None and time.monotonic() < end:
            time.sleep(0.2)
        if said is None and (other := record.reported_by(transaction_uid)) is not None:
            record.withdraw(transaction_uid, f"{other} reported during the check")
            ours = self.destination
            words = f"the report came from {other}, and we asked {ours.ae_title}: it is refused"
            action = f"set destinations.{ours.name}.ae_title to {other}, or correct the AE title in the PACS"
            yield Finding(self.place, name, Verdict.FAILED, words, action)
        elif said is None:
            record.withdraw(transaction_uid, "no report came during the check")
            words = f"the request was taken, no report came within {self.report_seconds:.0f} s"
            action = f"in the PACS, enter {self._entry()} for commitment reports"
            if not self.listening:
                action = UNHEARD
            elif self.listed().verdict != Verdict.GOOD:
                action += f"; here, list {self.destination.ae_title} under peers"
            yield Finding(self.place, name, Verdict.FAILED, words, action)
        elif said == f"{len(kept)} committed, 0 failed":
            yield good(self.place, name, f"reported: {said}")
        else:
            action = "see in the PACS why it does not keep what it accepted"
            yield Finding(self.place, name, Verdict.FAILED, f"reported: {said}", action)

    def found(self, kept: Sequence[Dataset]) -> Iterator[Finding]:
        """Look for the test objects by C-FIND."""
        series = [(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)) for ds in kept]
        try:
            there = query.instances(
                self._address, series, calling_ae_title=self._calling, timeout_seconds=self._seconds
            )
        except CarpusError as error:
            verdict = Verdict.FAILED if self.destination.confirm == "query" else Verdict.WARNING
            yield Finding(self.place, "C-FIND", verdict, str(error), self._remedy(error))
            return
        missing = [ds for ds, key in zip(kept, series, strict=True) if str(ds.SOPInstanceUID) not in there[key]]
        if missing:
            words = f"accepted and not found: {', '.join(str(ds.Modality) for ds in missing)}"
            action = "see in the PACS why it drops what it accepts, or whether its query service shows these objects"
            yield Finding(self.place, "C-FIND", Verdict.FAILED, words, action)
        else:
            yield good(self.place, "C-FIND", f"{len(kept)} of {len(kept)} test objects found" if kept else "is offered")

    def moved(self, kept: Sequence[Dataset]) -> Finding:
        """Have the PACS send a test object to us: it needs the same entry to send films and reports."""
        picture = next((ds for ds in kept if ds.SOPClassUID == SecondaryCaptureImageStorage), None)
        if picture is None:
            return skipped(self.place, "C-MOVE to us", "there is no test object that our listener takes (SC)")
        try:
            sent = query.move(
                self._address,
                (str(picture.StudyInstanceUID), str(picture.SeriesInstanceUID)),
                self._calling,
                here=self._here(),
                calling_ae_title=self._calling,
                timeout_seconds=self._seconds,
            )
        except CarpusError as error:
            refused = error.code == "sop-class-refused"
            verdict = Verdict.WARNING if refused else Verdict.FAILED
            action = self._remedy(error) if refused or self.listening else UNHEARD
            return Finding(self.place, "C-MOVE to us", verdict, str(error), action)
        if self.jobs.find(str(picture.SOPInstanceUID)):
            return good(self.place, "C-MOVE to us", f"{sent} instance came: the PACS reaches our listener")
        words = f"the PACS says that it sent {sent}, and nothing came here"
        action = f"in the PACS, correct the entry to {self._entry()}" if self.listening else UNHEARD
        return Finding(self.place, "C-MOVE to us", Verdict.FAILED, words, action)

    def earlier(self, kept: Sequence[Dataset]) -> Iterator[Finding]:
        """Look earlier reports up as a delivery does, for the test patient: nobody's, or the report that was stored just now."""
        settings = self.destination.priors
        if settings is None:
            return
        ways = {"get": "C-FIND and C-GET", "move": "C-FIND and C-MOVE", "web": "QIDO-RS and WADO-RS"}
        way = ways[settings.retrieve]
        name = f"earlier reports by {way}"
        where = f" at {settings.web.url}" if settings.web else ""
        report = next((ds for ds in kept if ds.SOPClassUID in RESULT_CLASSES["SR"]), None)
        started = time.monotonic()
        try:
            sought = priors.archive(self._address, self._calling, settings)
            series = sought.report_series(PATIENT.PatientID)
            ours = [each for each in series if report and each.SeriesInstanceUID == report.SeriesInstanceUID]
            came = sought.reports(ours) if ours else []
        except CarpusError as error:
            action = self._remedy(error) or "without it reports name no earlier bone age; see what the PACS logs of it"
            yield Finding(self.place, name, Verdict.FAILED, str(error), action)
            return
        took = f"{1000 * (time.monotonic() - started):.0f} ms"
        if report is None:
            yield good(
                self.place, name, f"the search answers{where} in {took}; no test report was stored to be got back"
            )
        elif any(ds.SOPInstanceUID == report.SOPInstanceUID for ds in came):
            yield good(self.place, name, f"the test report came back{where} in {took}")
        else:
            what = "does not bring" if ours else "does not list"
            words = f"the PACS accepted the test report and{where} {what} it (patient {PATIENT.PatientID})"
            action = "see in the PACS whether this service shows what came by C-STORE, at once and to this account"
            if settings.web:
                action += "; or correct the url of priors.web of this destination: it may be of another archive"
            yield Finding(self.place, name, Verdict.FAILED, words, action)

    @staticmethod
    def _classes(kind: ResultKind) -> tuple[UID, ...]:
        return RESULT_CLASSES[kind]

    def _remedy(self, error: CarpusError) -> str:
        """Return what to do about a service that failed; some archives hang up on a caller they have no entry for."""
        if error.code == "association-aborted":
            return (
                f"in the PACS, add the entry {self._entry()}: many archives hang up here on a caller they have none for"
            )
        return error.next_action

    def _entry(self) -> str:
        over = " over TLS" if self.settings.dicom_tls.only else ""
        return f"{self._calling} = {self._here()}{over}"

    def _here(self) -> str:
        """Return our own address as the PACS sees it, with the port of the listener."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            try:
                probe.connect((self.destination.host, self.destination.port))
                host = str(probe.getsockname()[0])
            except OSError:
                host = "the address of this machine"
        return f"{host}:{self.settings.dicom_port}"
