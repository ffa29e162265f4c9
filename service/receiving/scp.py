"""Run the Storage SCP: who may call, what is offered to them, from start to stop (PS3.4 B).

Needs neither the broker nor a model: a PACS is not refused because a GPU is away.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from sqlalchemy.exc import SQLAlchemyError

from service import tracing
from service.auditing.refusals import Refusals
from service.auditing.trail import Trail
from service.conformance import (
    ADDRESS_UNKNOWN,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    CERTIFICATE_UNKNOWN,
    REFUSED_TRANSFER_SYNTAXES,
    STORAGE_CLASSES,
    TLS_WANTED,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Rejection,
)
from service.errors import Permanent
from service.installation import software_version
from service.log import get_logger
from service.queue.jobs import Jobs
from service.receiving import prefork
from service.receiving.c_store import file_head, written_comment
from service.receiving.commitments import Commitments
from service.receiving.digests import digest
from service.receiving.incoming import Arrival
from service.receiving.listener import Listener
from service.receiving.places import Caller, Places
from service.receiving.receiver import Receiver
from service.receiving.siblings import Siblings
from service.sending import confirmer
from service.sending.commitment import PUSH_MODEL
from service.sending.safekeeping import Safekeeping
from service.settings import Settings
from service.storage import Stores
from service.trust.tls import EXPIRY_WARNING_DAYS, ServerTls

BEAT_SECONDS: Final = 5.0

log = get_logger()


class StorageServer(AbstractContextManager["StorageServer"]):
    """The listener of the service: who may call, what it accepts, and its life from start to stop.

    Parameters
    ----------
    settings
        AE title, address, peers, limits.
    stores, jobs
        See `Receiver`.
    port, tls_port
        Ports to listen on; None for `port` takes both from the settings, 0 any free one (then see `port`, `tls_port`).
    """

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        jobs: Jobs,
        *,
        port: int | None = None,
        tls_port: int = 0,
        siblings: Siblings | None = None,
    ) -> None:
        self.settings = settings
        self.stores = stores
        self.jobs = jobs
        self.receiver = Receiver(settings, stores, jobs)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, _echo)]
        self.commitments = Commitments(
            settings,
            stores,
            Safekeeping(jobs.engine, process=jobs.process, clock=jobs.now),
            confirmer.taker(confirmer.record_of(settings, jobs), settings),
        )
        self._handlers = [*handlers, (evt.EVT_ACCEPTED, _negotiated), *self.commitments.handlers]
        self._places = Places(settings.limits, siblings=siblings)
        trail = Trail(jobs.engine, clock=jobs.now)
        self._refusals = Refusals(trail, source=settings.audit_source, ae_title=settings.ae_title)
        self.listener: Listener | None = None
        self.tls_listener: Listener | None = None
        if not settings.dicom_tls.only:
            self.listener = self._listen("scp_port", settings.scp_port if port is None else port)
        if settings.dicom_tls.port is not None:
            tls = ServerTls(settings.dicom_tls)
            at = settings.dicom_tls.port if port is None else tls_port
            self.tls_listener = self._listen("dicom_tls.port", at, tls)
        self._writing = stores.identified.writing(self.recover)

    @property
    def port(self) -> int:
        """The plain port in use; 0 where there is none."""
        return self.listener.port if self.listener else 0

    @property
    def tls_port(self) -> int:
        """The port for TLS in use; 0 where there is none."""
        return self.tls_listener.port if self.tls_listener else 0

    @property
    def places(self) -> Places:
        """Where the connections of both listeners are counted."""
        return self._places

    def _listen(self, setting: str, port: int, tls: ServerTls | None = None) -> Listener:
        ae = AE(ae_title=self.settings.ae_title)
        ae.add_supported_context(VERIFICATION)
        for storage_class in STORAGE_CLASSES:
            ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        # Both roles: we report on what we received and take reports on what we sent (PS3.7 D.3.3.4).
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        ae.add_supported_context(PUSH_MODEL, syntaxes, scu_role=True, scp_role=True)
        try:
            return Listener(
                ae,
                self.settings.scp_host,
                port,
                limits=self.settings.limits,
                admit=self.admit,
                maximum_of=self._maximum_of,
                handlers=self._handlers,
                keep=self.receiver.keep,
                tls=tls,
                places=self._places,
                refused=self._refusals.note,
            )
        except OSError as error:
            raise Permanent(
                f"cannot listen on {self.settings.scp_host}:{port}: {error.strerror or error}",
                code="cannot-listen",
                next_action=f"see what uses the port, or change scp_host and {setting}",
            ) from error

    def admit(self, caller: Caller) -> Rejection | None:
        """Admit listed peers that call us by our name, from their address, with a certificate of theirs; None admits."""
        if caller.called_ae_title != self.settings.ae_title:
            return CALLED_UNKNOWN
        named = [peer for peer in self.settings.peers if peer.ae_title == caller.calling_ae_title]
        if not named:
            return CALLING_UNKNOWN
        placed = [peer for peer in named if peer.admits(caller.address)]
        if not placed:
            return ADDRESS_UNKNOWN
        if caller.certificate is None:
            return TLS_WANTED if all(peer.tls_required for peer in placed) else None
        shown = caller.certificate
        if not any(shown.stands_for(p.certificate_names or (p.ae_title,), p.certificate_sha256) for p in placed):
            return CERTIFICATE_UNKNOWN
        days = (shown.expires_at - time.time()) / 86_400
        if days < EXPIRY_WARNING_DAYS:
            log.warning("certificate of a peer expires soon", peer=caller.calling_ae_title, days=round(days, 1))
        return None

    def _store(self, event: Any) -> Dataset:
        """Answer a C-STORE request of unusual form, which pynetdicom put together; see `transport` for all others."""
        request, requestor = event.request, event.assoc.requestor
        syntax = UID(event.context.transfer_syntax)
        head = file_head(
            str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(syntax), requestor.ae_title
        )
        status, comment = self.receiver.keep(
            Arrival(
                SOPClassUID=str(request.AffectedSOPClassUID),
                SOPInstanceUID=str(request.AffectedSOPInstanceUID),
                transfer_syntax=syntax,
                calling_ae_title=requestor.ae_title,
                called_ae_title=requestor.primitive.called_ae_title,
                address=requestor.address,
                file=memoryview(head + request.DataSet.getbuffer()),
                data_at=len(head),
                digest=digest(request.DataSet.getbuffer()),
            )
        )
        answer = Dataset()
        answer.Status = status.code
        if comment:
            answer.ErrorComment = written_comment(comment)
        return answer

    def _maximum_of(self, caller: Caller) -> int | None:
        limits = [p.maximum_associations for p in self.settings.peers if p.ae_title == caller.calling_ae_title]
        return max((limit for limit in limits if limit is not None), default=None) if all(limits) else None

    def recover(self) -> None:
        """Remove what a crash left: unfinished files, and files that were never recorded and so never acknowledged."""
        parts = self.stores.identified.sweep()
        names = list(self.stores.identified.names())
        orphans = sorted(set(names) - self.jobs.known_names(names))
        for name in orphans:
            self.stores.identified.remove(name)
        if parts or orphans:
            log.warning("unacknowledged files removed", unfinished=parts, unrecorded=len(orphans))

    def __enter__(self) -> Self:
        """Start listening."""
        self._writing.__enter__()
        self.commitments.start()
        for listener in self._listeners():
            listener.start()
        ports = {"port": self.port or None, "tls_port": self.tls_port or None}
        log.info("listening", ae_title=self.settings.ae_title, host=self.settings.scp_host, **ports)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; transfers under way end first."""
        for listener in self._listeners():
            listener.stop()
        self.commitments.stop()
        self._writing.__exit__(kind, error, trace)
        log.info("stopped listening", port=self.port or self.tls_port)

    def _listeners(self) -> list[Listener]:
        return [listener for listener in (self.listener, self.tls_listener) if listener is not None]


def serve(settings: Settings, stores: Stores, jobs: Jobs, *, ready: Callable[[int], None] | None = None) -> None:
    """Listen until SIGTERM or SIGINT, with as many processes as the settings say; `ready` is told the port.

    Raises
    ------
    Retryable
        When one of several processes died; all of them have ended.
    """
    # What the library would log of a broken message is logged here already, without its bytes.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # pynetdicom collects garbage by hand while it listens; what was loaded until now stays for good and need not be gone through.
    gc.collect()
    gc.freeze()
    processes = settings.scp_processes
    siblings = Siblings(processes) if processes > 1 else None
    server = StorageServer(settings, stores, jobs, siblings=siblings)
    if ready is not None:
        ready(server.port or server.tls_port)
    if siblings is None:
        _receive(server, "scp")
        return
    jobs.engine.dispose()  # no connection to the database may be shared with a child

    def work(index: int) -> None:
        siblings.index = index
        _receive(server, f"scp {index + 1}")

    prefork.run(processes, work)


def _receive(server: StorageServer, name: str) -> None:
    """Receive in this process until SIGTERM or SIGINT."""
    tracing.configure(server.settings.tracing, "scp", version=software_version())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.receiver.rehearse()
    with server:
        while not stop.is_set():
            try:
                server.jobs.beat(name, server.receiver.pressure.flush())
                server.receiver.settle()
            except SQLAlchemyError as error:
                log.error("heartbeat failed", error=type(error).__name__)
            stop.wait(BEAT_SECONDS)
    server.jobs.sign_off(name)


def _echo(event: Any) -> int:
    log.info("echo", peer=f"{event.assoc.requestor.ae_title}@{event.assoc.requestor.address}")
    return 0x0000


def _negotiated(event: Any) -> None:
    """Log what a peer offered and did not get: the sender's log will say only that nothing fitted."""
    association = event.assoc
    peer = f"{association.requestor.ae_title}@{association.requestor.address}"
    accepted = {context.context_id for context in association.accepted_contexts}
    unknown = set(association.dul.socket.offer.refused.values())
    for context in association.requestor.primitive.presentation_context_definition_list:
        if context.context_id in accepted:
            continue
        sop_class = UID(context.abstract_syntax)
        if sop_class not in STORAGE_CLASSES:
            unknown.add(str(sop_class))
            continue
        for syntax in map(UID, context.transfer_syntax):
            why = REFUSED_TRANSFER_SYNTAXES.get(syntax, "no decoder for it")
            log.warning("transfer syntax refused", peer=peer, sop_class=sop_class.name, syntax=syntax.name, reason=why)
    if unknown:
        some = sorted(map(_name, unknown))[:5]
        log.info("SOP classes refused", peer=peer, count=len(unknown), some=some, reason="they hold no single film")


@lru_cache(maxsize=512)
def _name(sop_class: str) -> str:
    return UID(sop_class).name
