"""Have every destination prove that it keeps what it accepted: storage commitment where it is offered, C-FIND where it is not.

One thread for each destination, so that a PACS that does not answer holds up no other. What a destination offers is remembered for
an hour; a report that does not come in time is replaced by a look into the PACS.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from service.errors import CarpusError, Permanent, Retryable
from service.log import get_logger
from service.queue.jobs import Jobs
from service.sending import commitment, query, requestor
from service.sending.commitment import INVALID_ARGUMENT, NOT_AUTHORISED, PROCESSING_FAILURE, SUCCESS, Report
from service.sending.confirmation import BATCH, Confirmations, Failure, Unproved
from service.settings import Destination, Settings

PROMOTE_SECONDS: Final = 30.0
WAYS: Final = {"auto": ("commitment", "query"), "commitment": ("commitment",), "query": ("query",), "none": ()}

log = get_logger()


def record_of(settings: Settings, jobs: Jobs) -> Confirmations:
    """Return the record of proofs in the database of these jobs."""
    required = [destination.name for destination in settings.destinations if destination.confirm != "none"]
    return Confirmations(
        jobs.engine,
        required=required,
        maximum_resends=settings.confirmation.maximum_resends,
        ae_titles={destination.name: destination.ae_title for destination in settings.destinations},
        process=jobs.process,
        clock=jobs.now,
    )


def taker(record: Confirmations, settings: Settings) -> Callable[[str, Report], int]:
    """Return what takes a commitment report from a peer, on whatever association it comes; it returns the status."""
    titles = {destination.name: destination.ae_title for destination in settings.destinations}

    def take(peer: str, report: Report) -> int:
        try:
            asked = record.asked_of(report.transaction_uid)
            if asked is None:
                log.warning("commitment report on an unknown transaction", peer=peer)
                return INVALID_ARGUMENT
            if titles.get(asked) != peer:
                log.warning("commitment report from another peer than was asked", peer=peer, destination=asked)
                record.came_from_another(report.transaction_uid, peer)
                return NOT_AUTHORISED
            failed = [Failure(instance, reason) for instance, reason in report.failed]
            confirmed = record.report(report.transaction_uid, report.committed, failed)
        except Exception as error:  # noqa: BLE001 - the peer gets an answer and may report again; the error is logged
            log.error("commitment report not recorded", peer=peer, error=type(error).__name__)
            return PROCESSING_FAILURE
        log.info("commitment report", destination=asked, confirmed=confirmed, failed=len(failed))
        return SUCCESS

    return take


class Confirmer:
    """Ask the destinations, again and again, until everything is proved."""

    def __init__(self, record: Confirmations, settings: Settings) -> None:
        self._record = record
        self._settings = settings
        self._own = settings.confirmation
        self._refused_until: dict[tuple[str, str], float] = {}  # by destination and way
        self._why: dict[tuple[str, str], CarpusError] = {}
        self._handler = commitment.receive(taker(record, settings))

    def start(self, stop: threading.Event) -> list[threading.Thread]:
        """Start a thread for each destination that is to prove anything, and one that closes gaps."""
        threads = [
            threading.Thread(
                target=self._run, args=(destination, stop), name=f"confirm {destination.name}", daemon=True
            )
            for destination in self._settings.destinations
            if WAYS[destination.confirm]
        ]
        if threads:
            threads.append(threading.Thread(target=self._promote, args=(stop,), name="promote", daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def _run(self, destination: Destination, stop: threading.Event) -> None:
        while not stop.wait(self._own.interval_seconds):
            try:
                while self.round(destination) >= BATCH and not stop.is_set():
                    pass  # less than all that is asked about at once is left until the next look: one request for many films
            except Exception as error:  # noqa: BLE001 - the loop must outlive any outage; the error is logged
                log.error("confirmation failed", destination=destination.name, error=type(error).__name__)

    def _promote(self, stop: threading.Event) -> None:
        while not stop.wait(PROMOTE_SECONDS):
            try:
                self._record.promote()
            except Exception as error:  # noqa: BLE001 - the loop must outlive any outage; the error is logged
                log.error("confirmation failed", error=type(error).__name__)

    def round(self, destination: Destination) -> int:
        """Have proved what is due at one destination; return how many objects were asked about."""
        objects = self._record.due(destination.name)
        fresh = [each for each in objects if each.transaction_uid is None and not each.checks]
        known = [each for each in objects if each not in fresh]
        if fresh:
            self._prove(destination, fresh, WAYS[destination.confirm])
        if known:  # a report did not come, or a look was in vain: look (again), ask only where nobody can look
            ways = sorted(WAYS[destination.confirm], reverse=True)
            self._prove(destination, known, ways)
        return len(objects)

    def _prove(self, destination: Destination, objects: Sequence[Unproved], ways: Sequence[str]) -> None:
        """Try the ways of proof in order; the first that the destination offers is taken."""
        how = {"commitment": self._ask, "query": self._read_back}
        away = False
        for way in ways:
            key = (destination.name, way)
            if time.monotonic() < self._refused_until.get(key, 0.0):
                continue
            try:
                how[way](destination, objects)
            except Permanent as error:
                self._refused_until[key] = time.monotonic() + self._own.ask_again_seconds
                self._why[key] = error
                log.warning(
                    "no proof this way", destination=destination.name, way=way, code=error.code, cause=str(error)
                )
            except Retryable as error:
                log.warning("destination cannot be asked", destination=destination.name, way=way, code=error.code)
                away = True
            else:
                return
        if away:
            self._record.look_again(objects, self._own.away_seconds, in_vain=False)
        else:
            self._say_so(destination, objects)

    def _ask(self, destination: Destination, objects: Sequence[Unproved]) -> None:
        if any(each.transaction_uid for each in objects):
            log.warning("no commitment report in time", destination=destination.name, objects=len(objects))
            self._record.unprovable(objects, "commitment-unanswered", *self._unanswered(destination, objects))
        due_at = self._record.now() + dt.timedelta(seconds=self._own.report_timeout_seconds)
        transaction_uid = self._record.ask(destination.name, objects, due_at)
        try:
            commitment.request(
                requestor.address_of(destination, self._settings),
                [(each.SOPClassUID, each.SOPInstanceUID) for each in objects],
                transaction_uid,
                calling_ae_title=self._settings.ae_title,
                timeout_seconds=destination.timeout_seconds,
                settled=lambda: self._record.is_settled(transaction_uid),
                hold_seconds=self._own.hold_seconds,
                handlers=[self._handler],
            )
        except CarpusError as error:
            if not self._record.is_settled(transaction_uid):
                self._record.withdraw(transaction_uid, str(error))
            raise

    def _unanswered(self, destination: Destination, objects: Sequence[Unproved]) -> tuple[str, str]:
        """Return what is said of a request without a report, and what to change."""
        asked = dict.fromkeys(each.transaction_uid for each in objects if each.transaction_uid)
        other = next(filter(None, map(self._record.reported_by, asked)), None)
        if other is not None:
            text = f"{destination.name} reports on storage commitment as {other}, and we asked {destination.ae_title}"
            return text, f"set destinations.{destination.name}.ae_title to {other}, or correct the AE title in the PACS"
        text = f"{destination.name} took the request for storage commitment and has not reported"
        return text, (
            f"in the PACS, register {self._settings.ae_title} with this machine's address and port "
            f"{self._settings.scp_port} for commitment reports; here, list {destination.ae_title} under peers"
        )

    def _read_back(self, destination: Destination, objects: Sequence[Unproved]) -> None:
        series = dict.fromkeys((each.StudyInstanceUID, each.SeriesInstanceUID) for each in objects)
        present = query.instances(
            requestor.address_of(destination, self._settings),
            series,
            calling_ae_title=self._settings.ae_title,
            timeout_seconds=destination.timeout_seconds,
        )
        kept = [
            each for each in objects if each.SOPInstanceUID in present[each.StudyInstanceUID, each.SeriesInstanceUID]
        ]
        late = ", no commitment report came in time" if any(each.transaction_uid for each in kept) else ""
        self._record.found(kept, f"found in {destination.name} by C-FIND{late}")
        delays = self._own.check_delays_seconds
        absent = [each for each in objects if each not in kept]
        for checks, delay in enumerate(delays):
            self._record.look_again([each for each in absent if each.checks == checks], delay, in_vain=True)
        self._record.missing([each for each in absent if each.checks >= len(delays)])

    def _say_so(self, destination: Destination, objects: Sequence[Unproved]) -> None:
        """Leave the objects accepted, say why there is no proof, and try again much later."""
        causes = [self._why[key] for way in WAYS[destination.confirm] if (key := (destination.name, way)) in self._why]
        text = f"{destination.name} accepted the results and cannot prove that it keeps them: " + "; ".join(
            str(error) for error in causes
        )
        action = "; or ".join(error.next_action for error in causes if error.next_action)
        action += f"; or set confirm: none for the destination {destination.name}"
        self._record.unprovable(objects, "not-provable", text, action)
        self._record.look_again(objects, self._own.ask_again_seconds, in_vain=True)
