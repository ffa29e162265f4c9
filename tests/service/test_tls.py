"""DICOM over TLS in both directions: whose certificate opens what, and what is said when it does not."""

import datetime as dt
import shutil
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.__main__ import cli
from service.conformance import CERTIFICATE_UNKNOWN, TLS_WANTED
from service.errors import InvalidConfiguration, Permanent, Retryable
from service.receiving.places import MAXIMUM_PENDING, Places
from service.sending import requestor, scu
from service.settings import Destination, DestinationTls, DicomTls, Limits, Peer, Settings
from service.trust import certificates, tls
from service.trust.tls import ClientTls, ServerTls
from tests import raw_peer
from tests.certificates import client_context, client_hello, expired, folder, ours, strangers, theirs
from tests.factories import instance
from tests.listening import LIMITS, Running, start
from tests.raw_peer import RawPeer, associate_rq


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path, dicom_tls=ours())
    with running.server:
        yield running
    running.jobs.engine.dispose()


def echo(running: Running, way: ClientTls | None, *, calling: str = "PACS", port: int | None = None) -> float:
    address = requestor.Address("CARPUS", "127.0.0.1", port or running.tls_port, way)
    return scu.echo(address, calling_ae_title=calling, timeout_seconds=5)


def logged(logs: list[Any], event: str, times: int = 1) -> list[Any]:
    """Return the entries of an event, as soon as there are so many: a peer sees its end a moment before the log does."""
    deadline = time.monotonic() + 10
    while len(found := [entry for entry in logs if entry["event"] == event]) < times and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


# -- incoming -------------------------------------------------------------------------------------------------------------


def test_a_peer_with_its_certificate_is_echoed_and_stores(scp: Running) -> None:
    assert echo(scp, theirs()) > 0
    address = requestor.Address("CARPUS", "127.0.0.1", scp.tls_port, theirs())
    films = [instance(seed=seed, rows=900, columns=700) for seed in range(3)]  # 1.2 MB: many records, many PDUs
    with capture_logs() as logs:
        sent = scu.store(address, films, calling_ae_title="PACS", timeout_seconds=10)
        ended = logged(logs, "association ended")
    assert [one.status for one in sent] == [0, 0, 0]
    assert scp.jobs.backlog() == 3
    assert [entry["tls"] for entry in ended] == ["TLSv1.3"]
    assert scp.echo() == 0x0000  # the plain port beside it


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_bcp_195_are_spoken(scp: Running, version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", scp.tls_port), 5), server_hostname="CARPUS"
    ) as secure:
        assert secure.cipher()[0].replace("_", "-").startswith(("TLS-AES", "TLS-CHACHA", "ECDHE"))
        secure.sendall(associate_rq())
        assert secure.recv(1) == b"\x02"


@pytest.mark.parametrize(
    ("name", "where", "code"),
    [
        (None, folder, "tls-certificate-wanted"),
        ("PACS", strangers, "tls-certificate-refused"),
        ("PACS", expired, "tls-certificate-refused"),
    ],
    ids=["none", "of another authority", "expired"],
)
def test_a_certificate_that_proves_nothing_is_refused_in_the_handshake(
    scp: Running, name: str | None, where: Callable[[], Path], code: str
) -> None:
    with capture_logs() as logs:
        with pytest.raises(Permanent) as refused:
            echo(scp, theirs(name, where=where()))
        assert logged(logs, "TLS handshake failed")
    assert refused.value.code == code
    assert echo(scp, theirs()) > 0


def test_a_peer_cannot_use_the_ae_title_of_another(scp: Running) -> None:
    with capture_logs() as logs:
        with pytest.raises(Permanent, match="rejected the association"):
            echo(scp, theirs("OTHER"))
        (entry,) = logged(logs, "association rejected")
    assert entry["code"] == CERTIFICATE_UNKNOWN.code


def test_a_certificate_name_and_a_fingerprint_can_be_set_for_each_peer(tmp_path: Path) -> None:
    pinned = certificates.Certificate.read(folder() / "PACS.pem").sha256
    peers = (
        Peer(ae_title="NAMED", certificate_names=("OTHER",)),
        Peer(ae_title="PINNED", certificate_names=("PACS",), certificate_sha256=(pinned.upper(),)),
        Peer(ae_title="ELSE", certificate_names=("PACS",), certificate_sha256=("0" * 64,)),
    )
    running = start(tmp_path, peers=peers, dicom_tls=ours())
    with running.server:
        assert echo(running, theirs("OTHER"), calling="NAMED") > 0
        assert echo(running, theirs("PACS"), calling="PINNED") > 0
        for calling, name in (("NAMED", "PACS"), ("PINNED", "OTHER"), ("ELSE", "PACS")):
            with pytest.raises(Permanent):
                echo(running, theirs(name), calling=calling)


def test_a_peer_that_must_use_tls_is_rejected_on_the_plain_port(tmp_path: Path) -> None:
    running = start(tmp_path, peers=(Peer(ae_title="PACS", tls_required=True),), dicom_tls=ours())
    with running.server:
        assert raw_peer.rejection(running.port) == (TLS_WANTED.result, TLS_WANTED.source, TLS_WANTED.reason)
        assert echo(running, theirs()) > 0


def test_with_tls_only_there_is_no_plain_port(tmp_path: Path) -> None:
    running = start(tmp_path, dicom_tls=ours(only=True))
    with running.server:
        assert running.port == 0
        assert echo(running, theirs()) > 0
    assert running.settings.dicom_port == 2762


def test_plain_dicom_on_the_tls_port_is_named_and_answered(scp: Running) -> None:
    with capture_logs() as logs:
        with RawPeer(scp.tls_port) as peer:
            peer.send(associate_rq())
            assert peer.read()[0] == 0x07
        with pytest.raises(Retryable, match="does not answer") as refused:
            echo(scp, None)
        assert len(logged(logs, "peer speaks plain DICOM on the TLS port", 2)) == 2
    assert "whether it wants TLS" in refused.value.next_action


def test_tls_on_the_plain_port_is_named_on_both_sides(scp: Running) -> None:
    with capture_logs() as logs:
        with pytest.raises(Retryable, match="broke off the TLS handshake"):
            echo(scp, theirs(), port=scp.port)
        assert logged(logs, "peer speaks TLS on the plain port")


def test_tls_1_1_is_refused(scp: Running) -> None:
    with capture_logs() as logs, RawPeer(scp.tls_port) as peer:
        peer.send(client_hello(0x0302))
        answer = peer.socket.recv(7)
        assert logged(logs, "TLS handshake failed")
    assert (answer[0], answer[5:]) == (0x15, b"\x02\x46")  # RFC 5246 7.2: fatal, protocol_version (70)


def test_handshakes_that_never_end_hold_up_nobody_and_are_cut_off(scp: Running) -> None:
    with ExitStack() as stack:
        silent = []
        for number in range(20):
            connection = stack.enter_context(closing(socket.create_connection(("127.0.0.1", scp.tls_port))))
            if number % 2:
                connection.sendall(client_hello(0x0303)[:40])  # a handshake begun and left
            silent.append(connection)
        started = time.monotonic()
        assert echo(scp, theirs()) < 1000
        for connection in silent:
            connection.settimeout(10)
            while connection.recv(100):
                pass
        assert time.monotonic() - started < LIMITS.association_timeout_seconds + 5


def test_a_stream_over_tls_is_bounded_like_a_plain_one(scp: Running) -> None:
    with client_context().wrap_socket(
        socket.create_connection(("127.0.0.1", scp.tls_port), 5), server_hostname="CARPUS"
    ) as secure:
        secure.sendall(associate_rq())
        head = secure.recv(6)
        left = int.from_bytes(head[2:6], "big")
        while left:
            left -= len(secure.recv(left))
        secure.sendall(struct.pack(">BBI", 4, 0, 400 * 1024**2))
        assert secure.recv(10)[0] == 0x07
    assert echo(scp, theirs()) > 0


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    mine = tmp_path / "tls"
    shutil.copytree(folder(), mine)
    running = start(tmp_path / "data", dicom_tls=ours(where=mine))

    def shown() -> tls.Shown:
        with client_context().wrap_socket(
            socket.create_connection(("127.0.0.1", running.tls_port), 5), server_hostname="127.0.0.1"
        ) as secure:
            return tls.Shown.of(secure)

    with running.server:
        before = shown()
        certificates.make(mine, ["CARPUS"], hosts=("127.0.0.1",))
        after = shown()
        (mine / "CARPUS.pem").write_text("half a fi")
        assert shown() == after  # the last good one
    assert before.sha256 != after.sha256


def test_a_revoked_certificate_is_refused(tmp_path: Path) -> None:
    authority = x509.load_pem_x509_certificate((folder() / "authority.pem").read_bytes())
    key = serialization.load_pem_private_key((folder() / "authority.key").read_bytes(), None)
    revoked = x509.load_pem_x509_certificate((folder() / "OTHER.pem").read_bytes())
    now = dt.datetime.now(dt.UTC)
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(revoked.serial_number)
        .revocation_date(now - dt.timedelta(hours=1))
        .build()
    )
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - dt.timedelta(hours=1))
        .next_update(now + dt.timedelta(days=1))
        .add_revoked_certificate(entry)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    listed = tmp_path / "revoked.pem"
    listed.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    peers = (Peer(ae_title="PACS"), Peer(ae_title="OTHER"))
    running = start(tmp_path / "data", peers=peers, dicom_tls=ours(revocation_list=listed))
    with running.server:
        assert echo(running, theirs()) > 0
        with pytest.raises(Permanent, match="refuses our certificate as revoked"):
            echo(running, theirs("OTHER"), calling="OTHER")


def test_a_peer_has_a_limit_of_its_own(tmp_path: Path) -> None:
    peers = (Peer(ae_title="PACS", maximum_associations=1), Peer(ae_title="OTHER"))
    running = start(tmp_path, peers=peers)
    with running.server, ExitStack() as stack:
        film = ("1.2.840.10008.5.1.4.1.1.1", raw_peer.IMPLICIT)
        first, second, third = (stack.enter_context(RawPeer(running.port)) for _ in range(3))
        assert first.associate(film)[0] == 0x02
        assert second.associate(film)[0] == 0x03
        assert third.associate(film, calling="OTHER")[0] == 0x02
        assert running.echo() == 0x0000  # an echo has a place in reserve


def test_a_flood_from_one_address_pushes_out_itself() -> None:
    places = Places(Limits())
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(MAXIMUM_PENDING + 5)]
        assert places.wait(sockets[0], "10.0.0.7") is None
        for connection in sockets[1:MAXIMUM_PENDING]:
            assert places.wait(connection, "10.6.6.6") is None
        for connection in sockets[MAXIMUM_PENDING:]:
            leaving = places.wait(connection, "10.6.6.6")
            assert leaving is not None
            assert leaving.address == "10.6.6.6"
        assert sockets[0] in places.pending


def test_a_rejected_caller_takes_no_place_among_the_associations(tmp_path: Path) -> None:
    running = start(tmp_path, limits=LIMITS.model_copy(update={"maximum_associations": 1}))
    with running.server, ExitStack() as stack:
        strangers_at_the_door = [stack.enter_context(RawPeer(running.port)) for _ in range(5)]
        for peer in strangers_at_the_door:
            peer.send(associate_rq(calling="STRANGER"))
            assert peer.read()[0] == 0x03  # and the connection stays open for a second
        assert running.server.places.associations.total() == 0
        assert running.send(instance()) == [0x0000]


# -- outgoing -------------------------------------------------------------------------------------------------------------


def test_the_certificate_of_a_destination_must_stand_for_it(scp: Running) -> None:
    assert echo(scp, theirs(names=("CARPUS",))) > 0
    for way, setting in (
        (theirs(names=("ARCHIVE",)), "tls.certificate_names"),
        (theirs(sha256=("0" * 64,)), "tls.certificate_sha256"),
        (ClientTls(strangers() / "authority.pem", folder() / "PACS.pem", folder() / "PACS.key"), "tls.authorities"),
    ):
        with pytest.raises(Permanent) as refused:
            echo(scp, way)
        assert refused.value.code == "tls-peer-certificate"
        assert setting in refused.value.next_action
        assert "127.0.0.1" in str(refused.value)


def test_without_names_the_certificate_must_be_valid_for_the_host(tmp_path: Path) -> None:
    made = tmp_path / "tls"
    shutil.copytree(folder(), made)
    certificates.make(made, ["CARPUS"])  # for no host
    running = start(tmp_path / "data", dicom_tls=ours(where=made))
    with running.server:
        with pytest.raises(Permanent, match="IP address mismatch") as refused:
            echo(running, theirs())
        assert "tls.certificate_names of the destination" in refused.value.next_action
        assert echo(running, theirs(names=("CARPUS",))) > 0


def test_a_certificate_made_for_an_address_is_valid_for_it(tmp_path: Path) -> None:
    (made,) = certificates.make(tmp_path, ["127.0.0.1"]).values()
    found = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_destination_takes_from_our_own_settings_what_it_leaves_out() -> None:
    here = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 2762}
    settings = Settings(
        dicom_tls=ours(), destinations=(Destination(**here, tls=DestinationTls(certificate_names=("PACS",))),)
    )
    address = requestor.address_of(settings.destinations[0], settings)
    assert address.tls == ClientTls(
        folder() / "authority.pem", folder() / "CARPUS.pem", folder() / "CARPUS.key", ("PACS",)
    )
    assert requestor.address_of(Destination(**here), settings).tls is None


def test_a_peer_that_never_answers_the_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = requestor.Address("PACS", "127.0.0.1", mute.getsockname()[1], theirs())
        with pytest.raises(Retryable) as late:
            scu.echo(address, calling_ae_title="CARPUS", timeout_seconds=0.5)
    assert late.value.code == "tls-handshake-late"


# -- settings and commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"dicom_tls": {"port": 2762}}, "need certificate, key and authorities"),
        ({"dicom_tls": {"certificate": "a.pem"}}, "belong together; given: certificate"),
        ({"peers": [{"ae_title": "PACS", "tls_required": True}]}, "peers.PACS.tls_required"),
        ({"peers": [{"ae_title": "PACS", "certificate_sha256": ["12:34"]}]}, "certificate_sha256"),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 1, "tls": {}}]},
            "destinations.p.tls: neither it nor dicom_tls names authorities",
        ),
    ],
)
def test_half_a_setting_is_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["certificate", "key", "authorities"])
def test_a_missing_file_stops_the_start_and_is_named(tmp_path: Path, missing: str) -> None:
    given = ours().model_copy(update={missing: tmp_path / "nowhere.pem"})
    with pytest.raises(InvalidConfiguration, match=r"nowhere\.pem"):
        ServerTls(given)


def test_a_certificate_with_the_key_of_another_stops_the_start() -> None:
    given = DicomTls(
        certificate=folder() / "CARPUS.pem", key=folder() / "PACS.key", authorities=folder() / "authority.pem"
    )
    with pytest.raises(InvalidConfiguration, match="KEY_VALUES_MISMATCH"):
        ServerTls(given)


def test_the_commands_make_certificates_and_use_them(tmp_path: Path) -> None:
    run = CliRunner().invoke
    made = run(cli, ["tls", "make", str(tmp_path / "tls"), "CARPUS", "PACS", "--host", "127.0.0.1"])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "tls" / "CARPUS.key").stat().st_mode & 0o077 == 0
    shown = run(cli, ["tls", "show", str(tmp_path / "tls" / "CARPUS.pem")]).output
    assert "CARPUS, 127.0.0.1" in shown
    assert certificates.Certificate.read(tmp_path / "tls" / "CARPUS.pem").sha256 in shown
    with pytest.raises(InvalidConfiguration, match="no name for a certificate"):
        certificates.make(tmp_path / "tls", ["../evil"])
    at = tmp_path / "tls"
    tls_settings = DicomTls(
        certificate=at / "CARPUS.pem", key=at / "CARPUS.key", authorities=at / "authority.pem", port=2762
    )
    running = start(tmp_path / "data", dicom_tls=tls_settings)
    options = ["--tls", "--authorities", str(at / "authority.pem")]
    options += ["--certificate", str(at / "PACS.pem"), "--key", str(at / "PACS.key")]
    with running.server:
        words = ["echo", f"127.0.0.1:{running.tls_port}", "--calling", "PACS", *options]
        answer = run(cli, words)
        assert "over TLS" in answer.output, answer.output
    assert run(cli, ["echo", "127.0.0.1:1", "--tls"]).exit_code == 2
    assert run(cli, ["echo", "127.0.0.1:1", *options[1:]]).exit_code == 2


def test_how_long_our_certificates_hold_is_measured_and_warned_of(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["SOON"], days=10)
    certificates.make(tmp_path, ["GONE"], days=-2)
    tls_of = {name: DestinationTls(certificate=tmp_path / f"{name}.pem") for name in ("SOON", "GONE", "NONE")}
    places = tuple(Destination(name=name, ae_title="P", host="h", port=1, tls=each) for name, each in tls_of.items())
    found = {each.name: each for each in certificates.in_use(Settings(dicom_tls=ours(), destinations=places))}
    assert set(found) == {"dicom_tls", "destinations.SOON", "destinations.GONE", "destinations.NONE"}
    now = dt.datetime.now(dt.UTC)
    assert {name: each.fault(now) for name, each in found.items()} == {
        "dicom_tls": "",
        "destinations.SOON": "expires in 9 days",
        "destinations.GONE": "expired 2 days ago",
        "destinations.NONE": f"{tmp_path / 'NONE.pem'}: No such file or directory",
    }
