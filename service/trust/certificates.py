"""Make certificates for a trial, and say what a certificate holds.

A hospital has an authority of its own. For tests, for the demo and for two machines on a bench this one is enough: its key
stands beside its certificate, unprotected but for the mode of the file.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.errors import InvalidConfiguration
from service.settings import Settings
from service.trust.keys import write_private
from service.trust.tls import EXPIRY_WARNING_DAYS

AUTHORITY: Final = "authority"
LONGEST_NAME: Final = 64  # RFC 5280 A.1: ub-common-name
_USAGES: Final = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_SIGNING: Final = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What an administrator wants to know of a certificate."""

    names: tuple[str, ...]  # subject CN first, then the alternative names
    issuer: str
    expires_at: dt.datetime
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the first certificate of a PEM file.

        Raises
        ------
        InvalidConfiguration
            When there is none.
        """
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            cause = getattr(error, "strerror", None) or "no certificate in PEM"
            raise InvalidConfiguration(f"{path}: {cause}") from error
        common = [str(attribute.value) for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        try:
            listed = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            alternative = [str(name.value) for name in listed]
        except x509.ExtensionNotFound:
            alternative = []
        return cls(
            tuple(dict.fromkeys([*common, *alternative])),
            found.issuer.rfc4514_string(),
            found.not_valid_after_utc,
            found.fingerprint(hashes.SHA256()).hex(),
        )


@dataclass(frozen=True, slots=True)
class InUse:
    """A certificate that the settings name; without `expires_at` it cannot be read, and `cause` says why."""

    name: str  # the setting: dicom_tls, web, destinations.NAME
    expires_at: dt.datetime | None
    cause: str = ""

    def fault(self, now: dt.datetime) -> str:
        """Return what is wrong, or will be soon; empty when nothing is."""
        if self.expires_at is None:
            return self.cause
        days = (self.expires_at - now) / dt.timedelta(days=1)
        if days < 0:
            return f"expired {-days:.0f} days ago"
        return f"expires in {int(days)} days" if days < EXPIRY_WARNING_DAYS else ""


def in_use(settings: Settings) -> list[InUse]:
    """Return every certificate of ours that the settings name."""
    paths = {"dicom_tls": settings.dicom_tls.certificate, "web": settings.web.certificate}
    for place in settings.destinations:
        paths[f"destinations.{place.name}"] = place.tls.certificate if place.tls else None
    return [_looked_at(name, path) for name, path in paths.items() if path is not None]


def _looked_at(name: str, path: Path) -> InUse:
    try:
        return InUse(name, Certificate.read(path).expires_at)
    except InvalidConfiguration as error:
        return InUse(name, None, str(error))


@dataclass(frozen=True, slots=True)
class Made:
    """The files of one certificate."""

    certificate: Path
    key: Path


def make(folder: Path, names: Sequence[str], *, days: int = 365, hosts: Sequence[str] = ()) -> dict[str, Made]:
    """Make a certificate for each name, signed by the authority of this folder, which is made when there is none.

    Parameters
    ----------
    folder
        Gets `authority.pem`, `authority.key`, and `NAME.pem`, `NAME.key` for each name. What stands there is replaced, the
        authority excepted.
    names
        AE titles, as a rule: each is the subject CN, and an alternative name.
    days
        How long they are valid; negative for one that has expired.
    hosts
        Host names and addresses that every certificate is valid for besides.

    Raises
    ------
    InvalidConfiguration
        When a name cannot be that of a certificate and a file.
    """
    for name in names:
        if not name.strip() or len(name) > LONGEST_NAME or "/" in name or name.startswith(".") or name == AUTHORITY:
            raise InvalidConfiguration(f"{name!r} is no name for a certificate: 1 to {LONGEST_NAME} letters, no slash")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Made(folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key")
    if not authority.certificate.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(authority, _signed("Carpus test authority", key, key, None, days=max(days, 3650)), key)
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    signer = serialization.load_pem_private_key(authority.key.read_bytes(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise InvalidConfiguration(f"{authority.key} was not made by this command")
    made = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        made[name] = Made(folder / f"{name}.pem", folder / f"{name}.key")
        _write(made[name], _signed(name, key, signer, issuer, days=days, hosts=hosts), key)
    return made


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    *,
    days: int,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """Return a certificate; without an issuer that of an authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    begins = now - dt.timedelta(days=1 if days > 0 else 1 - days)
    leaf = issuer is not None
    usages = {usage: leaf and usage in ("digital_signature", "key_agreement") for usage in _USAGES}
    usages |= {usage: not leaf and usage in ("key_cert_sign", "crl_sign") for usage in _SIGNING}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None if leaf else 0), critical=True)
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if leaf:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False).add_extension(
            x509.SubjectAlternativeName([_host(each) for each in dict.fromkeys([name, *hosts])]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(made: Made, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made.key.unlink(missing_ok=True)
    write_private(made.key, private)
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
