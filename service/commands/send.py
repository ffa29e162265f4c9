"""`carpus send` and `carpus echo`: be the sender, to try a connection or to bring films in by hand."""

import functools
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from service.errors import CarpusError, Permanent

if TYPE_CHECKING:
    from pydicom import Dataset

    from service.sending.requestor import Address
    from service.sending.scu import Sent
    from service.trust.tls import ClientTls
    from service.wrap import Patient

_PEM: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
FILES_AT_ONCE = 32  # over one association; what is sent is held in memory until it is sent


class HostPort(click.ParamType[tuple[str, int]]):
    """HOST:PORT, an IPv6 address in brackets."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Split at the last colon."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
            self.fail(f"{value!r} is not HOST:PORT with a port of 1..65535", param, ctx)
        return host.strip("[]"), int(port)


_TLS_OPTIONS: Final = (
    click.option("--tls", is_flag=True, help="Speak TLS; needs --authorities, as a rule --certificate and --key too."),
    click.option("--authorities", type=_PEM, help="PEM file of who may have signed the peer's certificate."),
    click.option("--certificate", type=_PEM, help="PEM file of the certificate to show."),
    click.option("--key", type=_PEM, help="PEM file of its key."),
    click.option("--certificate-name", help="A name the peer's certificate must carry; without it: HOST."),
)


def tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a TLS connection; the command gets them as one `tls`, None for plain DICOM."""

    @functools.wraps(command)
    def run(
        *,
        tls: bool,
        authorities: Path | None,
        certificate: Path | None,
        key: Path | None,
        certificate_name: str | None,
        **others: object,
    ) -> None:
        from service.trust.tls import ClientTls

        if (authorities or certificate or key or certificate_name) and not tls:
            raise click.UsageError("--authorities, --certificate, --key and --certificate-name need --tls")
        if tls and authorities is None:
            raise click.UsageError("--tls needs --authorities: whose signature is believed")
        names = (certificate_name,) if certificate_name else ()
        command(tls=ClientTls(authorities, certificate, key, names) if authorities else None, **others)

    for option in reversed(_TLS_OPTIONS):
        run = option(run)
    return run


@click.command()
@click.argument("to", type=HostPort())
@click.option("--called", default="CARPUS", show_default=True, help="AE title of the peer.")
@click.option("--calling", default="CARPUS-SEND", show_default=True, help="AE title to call by.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for each answer.")
@tls_options
def echo(to: tuple[str, int], called: str, calling: str, timeout: float, tls: "ClientTls | None") -> None:
    """Send C-ECHO to HOST:PORT and say how long the answer took, or why there was none."""
    from service.sending import scu

    milliseconds = scu.echo(_address(to, called, tls), calling_ae_title=calling, timeout_seconds=timeout)
    over = " over TLS" if tls else ""
    click.echo(f"{called} at {to[0]}:{to[1]} answered in {milliseconds:.0f} ms{over}")


@click.command()
@click.argument("paths", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--to", type=HostPort(), default="127.0.0.1:11112", show_default=True, help="Where to send.")
@click.option("--called", default="CARPUS", show_default=True, help="AE title of the peer.")
@click.option("--calling", default="CARPUS-SEND", show_default=True, help="AE title to call by.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for each answer.")
@click.option("--name", default="TEST^WRAPPED", show_default=True, help="PatientName of a wrapped picture.")
@click.option("--id", "patient_id", default="TEST-1", show_default=True, help="PatientID of a wrapped picture.")
@click.option("--sex", type=click.Choice(["F", "M", "O", ""]), default="", help="PatientSex of a wrapped picture.")
@click.option("--born", type=click.DateTime(["%Y-%m-%d"]), help="PatientBirthDate of a wrapped picture.")
@tls_options
def send(
    paths: tuple[Path, ...],
    to: tuple[str, int],
    called: str,
    calling: str,
    timeout: float,
    name: str,
    patient_id: str,
    sex: str,
    born: datetime | None,
    tls: "ClientTls | None",
) -> None:
    """Send DICOM files, or PNG, JPEG and WebP pictures wrapped as CR, and print the status of each.

    Folders are searched for files. Exit status 1 when a file could not be sent or was not accepted.
    """
    from service.wrap import Patient

    patient = Patient(name, patient_id, sex, born.date() if born else None)
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise click.UsageError("no files found")
    accepted = 0
    for first in range(0, len(files), FILES_AT_ONCE):
        films = _films(files[first : first + FILES_AT_ONCE], patient)
        for (file, _), sent in zip(films, _store(films, _address(to, called, tls), calling, timeout), strict=True):
            accepted += sent.accepted
            status = "none" if sent.status is None else f"0x{sent.status:04X}"
            click.echo(f"{status:6}  {sent.milliseconds:6.0f} ms  {file}" + (f"  {sent.error}" if sent.error else ""))
    click.echo(f"{accepted} of {len(files)} accepted by {called} at {to[0]}:{to[1]}")
    if accepted < len(files):
        raise SystemExit(1)


def _store(films: "list[tuple[Path, Dataset]]", address: "Address", calling: str, timeout: float) -> "list[Sent]":
    from service.sending import scu

    datasets = [ds for _, ds in films]
    return scu.store(address, datasets, calling_ae_title=calling, timeout_seconds=timeout) if datasets else []


def _films(files: list[Path], patient: "Patient") -> "list[tuple[Path, Dataset]]":
    """Load the files; say which cannot be sent and go on."""
    films = []
    for file in files:
        try:
            films.append((file, _film(file, patient)))
        except CarpusError as error:
            click.echo(f"not sent          {file}  {error}", err=True)
    return films


def _film(file: Path, patient: "Patient") -> "Dataset":
    """Read a DICOM file, or wrap a picture.

    Raises
    ------
    Permanent
        When it is neither.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from models import pixels
    from service.wrap import wrap

    if file.suffix.lower() in PICTURES:
        try:
            return wrap(pixels.load(file), patient, bits_stored=12, study=str(file.resolve()), laterality="")
        except pixels.UnreadablePixels as error:
            raise Permanent(str(error), code=error.code) from error
    try:
        ds = dcmread(file)
    except (InvalidDicomError, OSError) as error:
        raise Permanent(f"no DICOM file: {type(error).__name__}", code="not-dicom") from error
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if keyword not in ds:
            raise Permanent(f"{keyword} is missing", code="not-storable")
    return ds


def _files(path: Path) -> Iterator[Path]:
    return iter([path]) if path.is_file() else (file for file in sorted(path.rglob("*")) if file.is_file())


def _address(to: tuple[str, int], called: str, tls: "ClientTls | None") -> "Address":
    from service.sending.requestor import Address

    return Address(called, *to, tls)
