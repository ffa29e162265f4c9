"""Look at the way in: who may call us, whether our listener answers, when each peer last came."""

import datetime as dt
import socket
from collections.abc import Iterator
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.checkup.finding import Finding, Verdict, failed, good
from service.checkup.samples import STUDY_UID
from service.errors import CarpusError, Permanent
from service.queue.jobs import Jobs
from service.sending import scu
from service.sending.requestor import Address
from service.settings import Settings
from service.tables import Instance
from service.trust.tls import ClientTls

PLACE: Final = "entrance"
TIMEOUT_SECONDS: Final = 5.0
ADDRESS_REJECTED: Final = "association-rejected"  # PS3.8 9.3.4: source 1, no reason given; our rejection of an address
CERTIFICATE_REJECTED: Final = "calling-ae-refused"  # the same, reason 3; our rejection of another's certificate


def look(settings: Settings, jobs: Jobs) -> Iterator[Finding]:
    """Yield what was found of the way in."""
    if not settings.peers:
        action = "list the PACS under `peers` (ae_title, addresses); until then every association is refused"
        yield Finding(PLACE, "peers", Verdict.FAILED, "nobody may send", action)
        return
    yield bound(settings)
    if not settings.dicom_tls.only:
        yield from listener(settings)
    if settings.dicom_tls.port is not None:
        yield secured(settings)
    for peer in settings.peers:
        yield last_seen(jobs, peer.ae_title)


def bound(settings: Settings) -> Finding:
    """Say whether other machines can reach the listener at all."""
    local = settings.scp_host in ("127.0.0.1", "::1", "localhost")
    remote = [d for d in settings.destinations if d.host not in ("127.0.0.1", "::1", "localhost")]
    ports = [] if settings.dicom_tls.only else [f"{settings.scp_host}:{settings.scp_port}"]
    if settings.dicom_tls.port is not None:
        ports.append(f"{settings.scp_host}:{settings.dicom_tls.port} over TLS")
    words = f"{settings.ae_title} listens on {' and '.join(ports)}"
    if local and remote:
        action = "set scp_host: 0.0.0.0, or the address of this machine that the PACS calls"
        return Finding(PLACE, "address", Verdict.FAILED, f"{words}, which no other machine reaches", action)
    return good(PLACE, "address", words)


def _host(settings: Settings) -> str:
    """Return where we reach our own listener."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.scp_host, settings.scp_host)  # noqa: S104 - compared


def is_open(settings: Settings) -> bool:
    """Whether anybody takes connections at our port: a PACS that is to call us back needs that, whatever its entry says."""
    try:
        socket.create_connection((_host(settings), settings.dicom_port), timeout=TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def secured(settings: Settings) -> Finding:
    """Shake hands with our own TLS port, and call it in the name of a peer: with our certificate it must not let us in."""
    ours, peer, name = settings.dicom_tls, settings.peers[0].ae_title, "listener, TLS"
    port, title = ours.port or 0, settings.ae_title
    assert ours.authorities is not None  # noqa: S101 - a port has them, the settings see to it
    way = ClientTls(ours.authorities, ours.certificate, ours.key, names=(title,))
    try:
        scu.echo(Address(title, _host(settings), port, way), calling_ae_title=peer, timeout_seconds=TIMEOUT_SECONDS)
    except Permanent as error:
        if error.code in (CERTIFICATE_REJECTED, ADDRESS_REJECTED):
            return good(PLACE, name, f"it answers, and admits {peer} by its own certificate and address only")
        if error.code == "tls-peer-certificate":
            action = f"have dicom_tls.certificate made with the name {title}, by an authority of dicom_tls.authorities"
            text = f"a peer that looks for {title} in our certificate does not believe it: {error}"
            return Finding(PLACE, name, Verdict.WARNING, text, action)
        return failed(PLACE, name, error)
    except CarpusError as error:
        action = f"start `carpus serve` or `carpus scp`; see what else uses port {port}"
        return Finding(PLACE, name, Verdict.FAILED, f"our own listener does not answer: {error}", action)
    return good(PLACE, name, f"our listener answers {peer} over TLS")


def listener(settings: Settings) -> Iterator[Finding]:
    """Send C-ECHO to ourselves in the name of each peer."""
    address = Address(settings.ae_title, _host(settings), settings.scp_port)
    for peer in settings.peers:
        name = f"C-ECHO as {peer.ae_title}"
        try:
            milliseconds = scu.echo(address, calling_ae_title=peer.ae_title, timeout_seconds=TIMEOUT_SECONDS)
        except Permanent as error:
            if error.code == ADDRESS_REJECTED:
                allowed = ", ".join(peer.addresses)
                yield good(PLACE, name, f"our listener answers; {peer.ae_title} is admitted from {allowed} only")
            else:
                yield failed(PLACE, name, error)
        except CarpusError as error:
            action = f"start `carpus serve` or `carpus scp`; see what else uses port {settings.scp_port}"
            yield Finding(PLACE, name, Verdict.FAILED, f"our own listener does not answer: {error}", action)
            return
        else:
            yield good(PLACE, name, f"our listener answered in {milliseconds:.0f} ms")


def last_seen(jobs: Jobs, ae_title: str) -> Finding:
    """Say when a peer last sent an instance."""
    with Session(jobs.engine) as session:
        # The test object that C-MOVE brought in an earlier check is no film of the site.
        of_the_site = Instance.calling_ae_title == ae_title, Instance.StudyInstanceUID != STUDY_UID
        row = session.execute(select(func.max(Instance.received_at), func.count()).where(*of_the_site)).one()
    last: dt.datetime | None = row[0]
    count: int = row[1]
    if last is None:
        action = f"in the PACS, route hand and wrist films (CR, DX) to our AE title; they come from {ae_title}"
        return Finding(PLACE, f"films from {ae_title}", Verdict.WARNING, "none has come yet", action)
    return good(PLACE, f"films from {ae_title}", f"{count}, the last one at {last:%Y-%m-%d %H:%M} UTC")
