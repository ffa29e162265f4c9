"""Take part in Storage Commitment on our own listener (PS3.4 J): reports on what we sent, and requests for what we received.

A request is written down and answered at once; what is truly kept is looked up afterwards and reported on a new association where
the peer's address is known, else on the one that is still open.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pynetdicom import evt
from sqlalchemy.exc import SQLAlchemyError

from service.errors import CarpusError, Permanent, Retryable
from service.log import get_logger, whereabouts
from service.sending import commitment
from service.sending.commitment import INVALID_ARGUMENT, PROCESSING_FAILURE, SUCCESS, Report
from service.sending.requestor import Address, address_of
from service.sending.safekeeping import ANSWER_AFTER, NO_SUCH_INSTANCE, Safekeeping
from service.settings import Settings
from service.storage import Stores
from service.tables import Commitment
from service.trust.tls import ClientTls

POLL_SECONDS: Final = 1.0
ANSWER_DELAYS_SECONDS: Final = (5.0, 60.0, 600.0, 3600.0)  # after each report that was not taken; the last one repeats
MAXIMUM_ANSWERS: Final = 24  # about a day
TIMEOUT_SECONDS: Final = 30.0
OWNER_ANSWERS_WITHIN: Final = dt.timedelta(seconds=30)  # then anybody may find out that there is no association left

log = get_logger()


class Commitments:
    """The handlers of the listener, and the thread that reports to who asked.

    Parameters
    ----------
    take
        Gets a peer's AE title and its report on what we sent; returns the status of the answer.
    """

    def __init__(
        self, settings: Settings, stores: Stores, record: Safekeeping, take: Callable[[str, Report], int]
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._record = record
        self._open: dict[tuple[str, str], Any] = {}  # by peer and transaction: the association of the request
        self._due = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitments", daemon=True)
        self.handlers = [
            commitment.receive(take),
            (evt.EVT_N_ACTION, self.requested),
            *commitment.after_response("N_ACTION_RSP", lambda _association: self._due.set()),
        ]

    def start(self) -> None:
        """Report from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Report no more."""
        self._stopping = True
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def requested(self, event: Any) -> tuple[int, None]:
        """Write a request down; the handler of N-ACTION."""
        requestor = event.assoc.requestor
        peer = requestor.ae_title.strip()
        if event.action_type != commitment.REQUEST:
            return INVALID_ARGUMENT, None
        if commitment.too_large(event.request.ActionInformation):
            return commitment.RESOURCE_LIMITATION, None
        try:
            transaction_uid, references = commitment.parse_request(event.action_information)
            self._record.asked_by(transaction_uid, peer, requestor.address, references)
        except CarpusError as error:
            log.warning("commitment request unusable", peer=peer, code=error.code)
            return INVALID_ARGUMENT, None
        except Exception as error:  # noqa: BLE001 - the peer gets an answer; the error is logged
            log.error("commitment request not recorded", peer=peer, **whereabouts(error))
            return PROCESSING_FAILURE, None
        self._open[peer, transaction_uid] = event.assoc
        log.info("commitment requested", peer=peer, objects=len(references))
        return SUCCESS, None

    def _run(self) -> None:
        while not self._stopping:
            if self._due.wait(POLL_SECONDS):
                self._due.clear()
                time.sleep(ANSWER_AFTER.total_seconds())
            try:
                for asked in self._record.unanswered(able=self._able):
                    self.answer(asked)
                self._open = {key: held for key, held in self._open.items() if held.is_established}
            except SQLAlchemyError as error:
                log.error("database away", **whereabouts(error))

    def _able(self, asked: Commitment) -> bool:
        """Whether this process is the one to report: the association of the request may be with another one of the listener."""
        here = (asked.peer, asked.transaction_uid) in self._open or self._address(asked) is not None
        return here or self._record.now() - asked.created_at > OWNER_ANSWERS_WITHIN

    def answer(self, asked: Commitment) -> None:
        """Look up what is kept and tell who asked."""
        committed, failed = self.truth(asked.asked_for or [])
        try:
            self._tell(asked, committed, failed)
        except (Retryable, Permanent) as error:
            delay = ANSWER_DELAYS_SECONDS[min(asked.attempts, len(ANSWER_DELAYS_SECONDS)) - 1]
            log.warning("commitment report not taken", peer=asked.peer, attempt=asked.attempts, code=error.code)
            if asked.attempts >= MAXIMUM_ANSWERS:
                self._record.give_up(asked.id, str(error))
            else:
                again = self._record.now() + dt.timedelta(seconds=delay)
                self._record.answered(asked.id, str(error), again_at=again)
            return
        self._open.pop((asked.peer, asked.transaction_uid), None)
        self._record.answered(asked.id, f"{len(committed)} committed, {len(failed)} failed")
        log.info("commitment reported", peer=asked.peer, committed=len(committed), failed=len(failed))

    def truth(
        self, asked_for: Sequence[Mapping[str, str]]
    ) -> tuple[list[commitment.Reference], list[tuple[str, str, int]]]:
        """Return what is kept, row and file, and what is not, with its FailureReason."""
        rows, failed = self._record.kept(asked_for)
        committed = []
        for row in rows:
            if self._stores.identified.path(row.name).exists():
                committed.append((row.SOPClassUID, row.SOPInstanceUID))
            else:
                failed.append((row.SOPClassUID, row.SOPInstanceUID, NO_SUCH_INSTANCE))
        return committed, failed

    def _tell(
        self, asked: Commitment, committed: list[commitment.Reference], failed: list[tuple[str, str, int]]
    ) -> None:
        address = self._address(asked)
        if address is not None:
            commitment.report(
                address,
                asked.transaction_uid,
                committed,
                failed,
                calling_ae_title=self._settings.ae_title,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            return
        association = self._open.get((asked.peer, asked.transaction_uid))
        if association is None:
            raise Retryable(
                f"the port of {asked.peer} is not known and its association has ended",
                code="no-report-address",
                next_action=f"set `port` of the peer {asked.peer}: where it takes storage commitment reports",
            )
        commitment.report_on(association, asked.transaction_uid, committed, failed)

    def _address(self, asked: Commitment) -> Address | None:
        """Return where the peer takes reports: its own port, else a destination of its name."""
        for peer in self._settings.peers:
            if peer.ae_title == asked.peer and peer.port is not None and asked.address is not None:
                tls = ClientTls.of(peer.tls, self._settings.dicom_tls, names=peer.certificate_names)
                return Address(peer.ae_title, asked.address, peer.port, tls)
        for destination in self._settings.destinations:
            if destination.ae_title == asked.peer:
                return address_of(destination, self._settings)
        return None
