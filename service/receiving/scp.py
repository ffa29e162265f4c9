"""Run the Storage SCP: who may call, what is offered to them, from start to stop (PS3.4 B).

Needs neither the broker nor a model: a PACS is not refused because a GPU is away.
"""

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self

from pydicom.uid import UID
from pynetdicom import AE, evt
from sqlalchemy.exc import SQLAlchemyError

from service.conformance import (
    ADDRESS_UNKNOWN,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    REFUSED_TRANSFER_SYNTAXES,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Rejection,
)
from service.errors import Permanent
from service.jobs import Jobs
from service.log import get_logger
from service.receiving.listener import Listener
from service.receiving.places import Caller
from service.receiving.receiver import Receiver
from service.settings import Settings
from service.storage import Stores

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
    port
        Port to listen on; None takes that of the settings, 0 any free one (then see `port`).
    """

    def __init__(self, settings: Settings, stores: Stores, jobs: Jobs, *, port: int | None = None) -> None:
        self.settings = settings
        self.stores = stores
        self.jobs = jobs
        receiver = Receiver(settings, stores, jobs)
        ae = AE(ae_title=settings.ae_title)
        ae.add_supported_context(VERIFICATION)
        for storage_class in STORAGE_CLASSES:
            ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        try:
            self.listener = Listener(
                ae,
                settings.scp_host,
                settings.scp_port if port is None else port,
                limits=settings.limits,
                admit=self.admit,
                handlers=[(evt.EVT_C_STORE, receiver.store), (evt.EVT_C_ECHO, _echo), (evt.EVT_ACCEPTED, _negotiated)],
            )
        except OSError as error:
            raise Permanent(
                f"cannot listen on {settings.scp_host}:{settings.scp_port}: {error.strerror or error}",
                code="cannot-listen",
                next_action="see what uses the port, or change scp_host and scp_port",
            ) from error
        self.port = self.listener.port
        self._writing = stores.identified.writing(self.recover)

    def admit(self, caller: Caller) -> Rejection | None:
        """Admit listed peers that call us by our name from their address; None admits."""
        if caller.called_ae_title != self.settings.ae_title:
            return CALLED_UNKNOWN
        named = [peer for peer in self.settings.peers if peer.ae_title == caller.calling_ae_title]
        if not named:
            return CALLING_UNKNOWN
        return None if any(peer.admits(caller.address) for peer in named) else ADDRESS_UNKNOWN

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
        self.listener.start()
        log.info("listening", ae_title=self.settings.ae_title, host=self.settings.scp_host, port=self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; transfers under way end first."""
        self.listener.stop()
        self._writing.__exit__(kind, error, trace)
        log.info("stopped listening", port=self.port)


def serve(settings: Settings, stores: Stores, jobs: Jobs, *, ready: Callable[[int], None] | None = None) -> None:
    """Listen until SIGTERM or SIGINT; `ready` is told the port."""
    # What the library would log of a broken message is logged here already, without its bytes.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with StorageServer(settings, stores, jobs) as server:
        if ready is not None:
            ready(server.port)
        while not stop.is_set():
            try:
                jobs.beat("scp")
            except SQLAlchemyError as error:
                log.error("heartbeat failed", error=type(error).__name__)
            stop.wait(BEAT_SECONDS)


def _echo(event: Any) -> int:
    log.info("echo", peer=f"{event.assoc.requestor.ae_title}@{event.assoc.requestor.address}")
    return 0x0000


def _negotiated(event: Any) -> None:
    """Log what a peer offered and did not get: the sender's log will say only that nothing fitted."""
    association = event.assoc
    peer = f"{association.requestor.ae_title}@{association.requestor.address}"
    accepted = {context.context_id for context in association.accepted_contexts}
    unknown = set()
    for context in association.requestor.primitive.presentation_context_definition_list:
        if context.context_id in accepted:
            continue
        sop_class = UID(context.abstract_syntax)
        if sop_class not in STORAGE_CLASSES:
            unknown.add(sop_class.name)
            continue
        for syntax in map(UID, context.transfer_syntax):
            why = REFUSED_TRANSFER_SYNTAXES.get(syntax, "no decoder for it")
            log.warning("transfer syntax refused", peer=peer, sop_class=sop_class.name, syntax=syntax.name, reason=why)
    if unknown:
        some = sorted(unknown)[:5]
        log.info("SOP classes refused", peer=peer, count=len(unknown), some=some, reason="they hold no single film")
