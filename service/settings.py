"""Every setting of the service, read once from a YAML file and the environment, then passed down.

`carpus serve --config carpus.yaml`; an environment variable `CARPUS_<SETTING>` (nested: `CARPUS_LIMITS__MAXIMUM_ASSOCIATIONS`)
overrides the file, and a file `/run/secrets/carpus_<setting>` (Docker, Kubernetes) stands for a variable that should not be seen
in a process list. Nothing else in the code reads the environment.
"""

import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from service import yaml_file
from service.errors import InvalidConfiguration
from service.result_profile import BUILT_IN, ResultProfile

# PS3.5 6.2: an Application Entity is at most 16 characters of the default repertoire without backslash or control characters.
AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")
]
Port = Annotated[int, Field(ge=1, le=65535)]
# SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` and `carpus tls show` print it.
Fingerprint = Annotated[
    str,
    BeforeValidator(lambda text: str(text).replace(":", "").lower()),
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
]
# SHA-256 of a bundle, as `carpus models` prints it, or nothing.
Digest = Annotated[
    str,
    BeforeValidator(lambda text: str(text).strip().lower()),
    StringConstraints(pattern=r"^([0-9a-f]{64})?$"),
]
Confirm = Literal["auto", "commitment", "query", "none"]
MAXIMUM_SOCKET_PATH = 100  # unix(7): 108 bytes with the final zero, on some systems 104
SECRETS_DIRECTORY = Path("/run/secrets")
EXAMPLE_SECRETS = {"change-me", "changeme", "secret", "carpus", "password"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DicomTls(_Frozen):
    """TLS of DICOM connections in both directions (PS3.15 B.12: BCP 195, mutual); without a certificate there is none."""

    certificate: Path | None = None  # PEM, with its chain; renewed files are taken at the next connection
    key: Path | None = None  # PEM, without a pass phrase, readable by this user alone
    authorities: Path | None = None  # PEM of every authority whose certificates are believed
    revocation_list: Path | None = (
        None  # PEM; a revoked certificate is refused, and so is every one once the list is too old
    )
    port: Port | None = None  # a listener for TLS; 2762 is registered for it (PS3.15 B.1)
    only: bool = False  # no plain listener beside it

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [name for name in ("certificate", "key", "authorities") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(f"certificate, key and authorities belong together; given: {', '.join(given)}")
        if (self.port or self.only or self.revocation_list) and not given:
            raise ValueError("port, only and revocation_list need certificate, key and authorities")
        if self.only and self.port is None:
            raise ValueError("only: without a port nobody could connect")
        return self


class DestinationTls(_Frozen):
    """How a destination is spoken to over TLS; whatever is empty is taken from `dicom_tls`."""

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    certificate_names: tuple[str, ...] = ()  # one of them is CN or SAN of its certificate; empty: its host must be
    certificate_sha256: tuple[Fingerprint, ...] = ()  # empty: any certificate of the authorities


class Peer(_Frozen):
    """A remote AE that may associate with us. Whoever is not listed is refused."""

    ae_title: AETitle
    addresses: tuple[str, ...] = ("127.0.0.1/32", "::1/128")
    tls_required: bool = False  # not admitted on the plain port
    certificate_names: tuple[str, ...] = ()  # over TLS one of them is CN or SAN of its certificate; empty: the AE title
    certificate_sha256: tuple[Fingerprint, ...] = ()  # empty: any certificate of the authorities that carries the name
    maximum_associations: int | None = Field(default=None, ge=1, description="at once; none: `limits` alone hold")
    # Of all its films; none: what each film's header says.
    priority: Literal["stat", "routine", "backfill"] | None = None
    # Where it takes our storage commitment reports; none: there where a destination of its AE title is.
    port: Port | None = None
    tls: DestinationTls | None = None  # at that port; without names there: those above

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ipaddress.ip_network(address)
        return value

    def admits(self, address: str) -> bool:
        """Whether a connection from this address may use the AE title."""
        host = ipaddress.ip_address(address)
        return any(host in ipaddress.ip_network(network) for network in self.addresses)


class DicomWebSettings(_Frozen):
    """A DICOMweb server (PS3.18) and what admits us to it."""

    url: str = Field(pattern=r"^https?://[^\s?#@]+$", description="the part before /studies")
    token_file: Path | None = Field(default=None, description="holds a bearer token, alone on one line")
    user: str = Field(default="", description="for basic authentication, with password_file")
    password_file: Path | None = None
    authorities: Path | None = Field(
        default=None, description="PEM of who may vouch for the server; none: the usual ones"
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file belong together")
        if self.user and self.token_file:
            raise ValueError("token_file and user are two ways of admission; one is needed")
        if self.user or self.token_file:
            require_https("with a token or a password the url", self.url)
        return self


class PriorSettings(_Frozen):
    """How the earlier bone-age reports of a patient are got from a destination."""

    retrieve: Literal["get", "move", "web"] = Field(
        default="get",
        description="C-GET, C-MOVE to a listener of our own that the PACS knows by move_ae_title, or DICOMweb",
    )
    web: DicomWebSettings | None = None
    timeout_seconds: float = Field(default=10, gt=0, le=300, description="for the whole look-up; then without priors")
    maximum_reports: int = Field(default=10, ge=1, le=100, description="the latest ones")
    reread: bool = Field(
        default=False, description="get films that other weights read and read them again, for the comparison alone"
    )
    move_ae_title: AETitle = "CARPUS-PRIORS"
    move_host: str = Field(default="127.0.0.1", description="address the listener for C-MOVE is bound to")
    move_port: Port | None = None

    @model_validator(mode="after")
    def _has_a_port(self) -> Self:
        if self.retrieve == "move" and self.move_port is None:
            raise ValueError("retrieve is move, and no move_port is given: the PACS has to know where to send to")
        if (self.retrieve == "web") != (self.web is not None):
            raise ValueError("retrieve: web and the settings of web belong together")
        return self


class Destination(_Frozen):
    """A PACS that results go to, and which profile says what it gets: a name, or the profile itself."""

    name: str = Field(min_length=1)
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    profile: str | ResultProfile = "default"
    timeout_seconds: float = Field(default=30, gt=0)
    tls: DestinationTls | None = None  # none: plain DICOM
    priors: PriorSettings | None = None  # none: earlier reports are not looked up
    confirm: Confirm = Field(
        default="auto",
        description="how it proves that it keeps a result: storage commitment, C-FIND, the first of these that it offers, or not at all",
    )


class ConfirmationSettings(_Frozen):
    """How long and how often a destination is asked whether it keeps what it accepted."""

    interval_seconds: float = Field(default=1, gt=0, description="between two looks for what is to be confirmed")
    hold_seconds: float = Field(default=2, ge=0, description="the association stays open for a report on it")
    report_timeout_seconds: float = Field(
        default=600, gt=0, description="without a commitment report the objects are read back by C-FIND"
    )
    check_delays_seconds: tuple[float, ...] = Field(
        default=(2, 10, 60), description="after each look in vain; after the last one the object counts as not kept"
    )
    maximum_resends: int = Field(default=3, ge=0, description="of an object that was accepted and not kept")
    away_seconds: float = Field(default=30, gt=0, description="until a destination that did not answer is asked again")
    ask_again_seconds: float = Field(
        default=3600, gt=0, description="until a way of proof that a destination does not offer is tried again"
    )


class TracingSettings(_Frozen):
    """Traces of OpenTelemetry, sent as OTLP over HTTP; needs the extra `tracing`. They hold nothing of a patient.

    The variables of OpenTelemetry hold beside these: OTEL_EXPORTER_OTLP_ENDPOINT in place of `endpoint`, OTEL_EXPORTER_OTLP_HEADERS
    and _CERTIFICATE, OTEL_TRACES_SAMPLER and _ARG, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED.
    """

    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="of the collector, the part before /v1/traces; empty: none, or the one that the variable names",
    )
    timeout_seconds: float = Field(
        default=3, gt=0, le=30, description="for a delivery, and for the last one at the end"
    )

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return False
        named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return bool(self.endpoint or any(os.environ.get(name) for name in named))

    @property
    def traces_url(self) -> str:
        """Where the spans go; empty where the variable says it."""
        base = self.endpoint.rstrip("/")
        return base if not base or base.endswith("/v1/traces") else f"{base}/v1/traces"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_https(setting: str, url: str) -> None:
    """Refuse (ValueError) an address that is asked in the clear, unless it is on loopback."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError(f"{setting} {url!r} must be an https address (http on loopback alone)")


class Limits(_Frozen):
    """What one peer, one film or one disk may ask of us."""

    maximum_pdu_size: int = Field(default=131_072, ge=4_096, le=1_048_576)
    maximum_associations: int = Field(default=100, ge=1, description="at once")
    maximum_associations_per_address: int = Field(default=50, ge=1, description="at once, from one address")
    association_timeout_seconds: float = Field(
        default=10, gt=0, description="from the connection to the A-ASSOCIATE-RQ"
    )
    network_timeout_seconds: float = Field(default=60, gt=0, description="silence on an open association")
    maximum_instance_bytes: int = Field(default=256 * 1024**2, ge=1024**2)
    maximum_pixels: int = Field(default=64_000_000, ge=1_000_000)
    minimum_free_disk_bytes: int = Field(default=1024**3, ge=0)
    maximum_backlog: int = Field(default=5_000, ge=1, description="instances received and not yet prepared")
    maximum_backlog_seconds: float = Field(default=1_800, gt=0, description="the oldest of them may have waited")
    maximum_database_seconds: float = Field(default=5, gt=0, description="one question or commit may take")
    maximum_preparation_seconds: float = Field(
        default=300, ge=1, description="one film may hold the intake; it takes seconds"
    )


class RetrySettings(_Frozen):
    """How a step that failed for a passing cause is tried again."""

    first_seconds: float = Field(default=5, gt=0, description="after the first failure; each further one doubles it")
    longest_seconds: float = Field(default=3600, gt=0, description="the delay grows up to this")
    for_hours: float = Field(default=72, gt=0, description="from the first failure until the job is a dead letter")


class WorkerSettings(_Frozen):
    """What one worker process may do before it is replaced by a fresh one."""

    stall_seconds: float = Field(default=90, ge=1, description="without a canary message coming back")
    step_seconds: float = Field(default=1800, gt=0, description="one step of one job at most")
    maximum_steps: int = Field(default=0, ge=0, description="then the process is replaced; 0 never")
    maximum_resident_bytes: int = Field(default=0, ge=0, description="then the process is replaced; 0 never")


class BreakerSettings(_Frozen):
    """When a destination that keeps failing is left alone, and how it is tried again."""

    failures: int = Field(default=3, ge=1, description="passing failures in a row until deliveries to it stop")
    probe_seconds: float = Field(default=15, gt=0, description="until the first C-ECHO; each failed one doubles it")
    longest_probe_seconds: float = Field(default=300, gt=0, description="between two C-ECHOs at most")


class SyslogSettings(_Frozen):
    """The hospital's audit repository (PS3.15 A.6): syslog records over TLS."""

    host: str = Field(min_length=1)
    port: Port = 6514
    tls: bool = True
    authorities: Path | None = Field(default=None, description="PEM file; without it the system's")
    certificate: Path | None = Field(default=None, description="PEM file, where the repository asks for one")
    key: Path | None = None
    timeout_seconds: float = Field(default=10, gt=0)


class AuditSettings(_Frozen):
    """The audit trail (PS3.15 A.5)."""

    source: str = Field(default="", description="AuditSourceID; empty: the AE title")
    syslog: SyslogSettings | None = None


class KeySettings(_Frozen):
    """Where the keys of the pseudonyms and of the vault come from; empty: a file in the data directory, made at the first start."""

    file: Path | None = Field(default=None, description="JSON as `carpus keys rotate --print` prints it, mode 0600")
    value: SecretStr = SecretStr("")  # the same JSON itself; CARPUS_KEYS__VALUE, or a secret file of that name
    command: str = Field(default="", description="prints the same JSON, e.g. the client of a key management service")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum((self.file is not None, bool(self.value.get_secret_value()), bool(self.command.strip()))) > 1:
            raise ValueError("keys come from one place: file, value or command")
        return self


class RetentionSettings(_Frozen):
    """How long films stay here. Only what every destination has confirmed is removed, or accepted where it is asked for no proof."""

    films_days: float | None = Field(
        default=30, gt=0, description="after the job finished; null: until the disk is full"
    )
    quarantine_days: float | None = Field(default=90, gt=0, description="null: for ever")
    maximum_disk_percent: float = Field(default=85, gt=0, le=100, description="above it the oldest films leave first")


class OidcSettings(_Frozen):
    """Log-in at an identity provider (OpenID Connect, authorisation code with PKCE); needs the extra `oidc`."""

    issuer: str  # https://…; plain http on loopback alone
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")  # empty: a public client
    scopes: str = "openid profile"
    authorities: Path | None = None  # PEM of who signed the provider's certificate; none: those of the system
    name_claim: str = "preferred_username"
    observer_claim: str = "name"
    role_claim: str = "roles"  # a dot leads into an object: realm_access.roles
    roles: dict[str, Literal["viewer", "radiologist", "administrator"]] = Field(
        min_length=1
    )  # value of the claim: role

    @field_validator("issuer")
    @classmethod
    def _secure(cls, value: str) -> str:
        require_https("issuer", value)
        return value.rstrip("/")


class WebSettings(_Frozen):
    """The pages."""

    host: str = "127.0.0.1"
    port: Port = 8042
    certificate: Path | None = None  # PEM with its chain; with `key` the pages are served over TLS
    key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For and X-Forwarded-Proto are believed
    public_url: str = ""  # as a browser sees it, e.g. https://carpus.hospital.example; needed for `oidc`
    monitor_addresses: tuple[str, ...] = ("127.0.0.1/32", "::1/128")  # may read /metrics without a token
    administrator: str = "admin"
    password_hash: SecretStr = SecretStr("")  # argon2; empty: a password is made at first start and printed once
    secret_key: SecretStr = SecretStr(
        ""
    )  # signs the session cookie; empty: made at first start and kept in the data directory
    secure_cookies: bool = False  # true: the pages are reached over TLS that a proxy ends
    oidc: OidcSettings | None = None

    @property
    def over_tls(self) -> bool:
        """Whether browsers reach the pages over TLS: cookies are then sent over nothing else."""
        return self.certificate is not None or self.secure_cookies

    @field_validator("host")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value  # as an address stands in a URL

    @field_validator("trusted_proxies", "monitor_addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ipaddress.ip_network(address)
        return value

    @model_validator(mode="after")
    def _not_in_the_clear(self) -> Self:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("certificate and key belong together")
        if not self.over_tls and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} would send passwords in the clear: set certificate and key, "
                "or secure_cookies where a TLS proxy stands before the pages"
            )
        if self.oidc is not None:
            require_https("public_url", self.public_url)
        return self

    @field_validator("secret_key")
    @classmethod
    def _not_an_example(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text and (text.lower() in EXAMPLE_SECRETS or len(text) < 32):
            raise ValueError(
                "web.secret_key is an example or shorter than 32 characters; leave it empty to have one made"
            )
        return value


def usable_processors() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """All settings; frozen."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="CARPUS_", env_nested_delimiter="__", env_ignore_empty=True
    )

    data_directory: Path = Path("carpus-data")
    database_url: str = ""  # empty: SQLite in the data directory
    broker_url: str = ""  # empty: a Redis of our own on a private socket in the data directory
    ae_title: AETitle = "CARPUS"
    scp_host: str = "127.0.0.1"
    scp_port: Port = 11112
    scp_processes: int = Field(
        default_factory=lambda: min(2, usable_processors()),
        ge=1,
        le=32,
        description="that receive on the one port, each on a core of its own",
    )
    peers: tuple[Peer, ...] = ()
    destinations: tuple[Destination, ...] = ()
    profiles: Mapping[str, ResultProfile] = Field(default_factory=dict, description="the site's own, by name")
    negotiation_hours: float = Field(
        default=1, gt=0, le=24 * 30, description="how long the SOP classes a PACS accepts are remembered"
    )
    debounce_seconds: float = Field(
        default=0.3, ge=0, le=60, description="how old an instance is before it is prepared"
    )
    bundle: str = Field(default="default", description="by name, or the path of its JSON file")
    bundle_sha256: Digest = Field(
        default="",
        description="of the one bundle that may be used, as `carpus models` shows it; empty: whatever `bundle` names",
    )
    default_method: str = ""  # empty: the bundle's own default
    device_uid: str = ""  # empty: made at first start and kept in the data directory
    institution_name: str = ""
    device_serial_number: str = Field(default="1", description="stands in every result beside device_uid")
    inference_threads: int = Field(default=2, ge=1, description="of the CPU, of the process that reads films")
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    worker: WorkerSettings = WorkerSettings()
    confirmation: ConfirmationSettings = ConfirmationSettings()
    limits: Limits = Limits()
    dicom_tls: DicomTls = DicomTls()

    audit: AuditSettings = AuditSettings()
    retention: RetentionSettings = RetentionSettings()
    web: WebSettings = WebSettings()
    keys: KeySettings = KeySettings()
    tracing: TracingSettings = TracingSettings()
    log_level: str = "INFO"
    log_json: bool = True

    @field_validator("database_url", "broker_url")
    @classmethod
    def _no_example_password(cls, value: str) -> str:
        if (urlsplit(value).password or "").lower() in EXAMPLE_SECRETS:
            raise ValueError("the password in this address is an example; set one of your own")
        return value

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError(f"destinations carry the same name twice: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _tls_where_it_is_asked_for(self) -> Self:
        needy = [f"peers.{peer.ae_title}.tls_required" for peer in self.peers if peer.tls_required]
        if needy and self.dicom_tls.port is None:
            raise ValueError(f"{', '.join(needy)}: dicom_tls.port is not set, so this peer could not connect at all")
        asked = {f"destinations.{destination.name}": destination.tls for destination in self.destinations}
        asked |= {f"peers.{peer.ae_title}": peer.tls for peer in self.peers}
        for where, tls in asked.items():
            if tls and not (tls.authorities or self.dicom_tls.authorities):
                raise ValueError(f"{where}.tls: neither it nor dicom_tls names authorities")
        return self

    @model_validator(mode="after")
    def _known_profiles(self) -> Self:
        known = self.known_profiles
        for destination in self.destinations:
            if isinstance(destination.profile, str) and destination.profile not in known:
                raise ValueError(
                    f"destination {destination.name} names the profile {destination.profile!r}; known are {', '.join(known)}"
                )
        return self

    @property
    def known_profiles(self) -> Mapping[str, ResultProfile]:
        """Every profile by its name: the built-in ones, and over them those of the site."""
        return {**BUILT_IN, **self.profiles}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over secret files, and those over the YAML file, whose values arrive as arguments."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=SECRETS_DIRECTORY,
            secrets_dir_missing="ok",
            secrets_prefix="carpus_",
            secrets_nested_delimiter="__",
        )
        return env_settings, secrets, init_settings

    @property
    def audit_source(self) -> str:
        """Who writes the audit trail."""
        return self.audit.source or self.ae_title

    @property
    def fingerprint(self) -> str:
        """A short hash of every setting, secrets left out: tells in the audit trail that the configuration changed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def resolved_database_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{(self.data_directory / 'carpus.sqlite').resolve()}"

    @property
    def dicom_port(self) -> int:
        """The port that is open in any case: the plain one, or the one for TLS where there is no other."""
        return self.dicom_tls.port if self.dicom_tls.only and self.dicom_tls.port else self.scp_port

    @property
    def redis_socket(self) -> Path:
        """The private socket of the embedded Redis; in a short folder where the data directory's path is too long."""
        path = (self.data_directory / "redis.sock").resolve()
        if len(os.fsencode(path)) <= MAXIMUM_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"carpus-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def resolved_broker_url(self) -> str:
        """The broker in use."""
        return self.broker_url or f"redis+socket://{self.redis_socket}"


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from a YAML file (or none), the environment and explicit overrides.

    Raises
    ------
    InvalidConfiguration
        When the file is missing or malformed, a key is unknown or a value is out of its limits; every fault is named. Also when
        a secret cannot be read, or a variable that holds more than a text is no JSON.
    """
    values: dict[str, Any] = {}
    if path is not None:
        loaded = yaml_file.read(path)
        if loaded is not None and not isinstance(loaded, dict):
            raise InvalidConfiguration(f"{path} holds a {type(loaded).__name__}; a mapping of settings is needed")
        for name in loaded or {}:
            if not isinstance(name, str):
                raise InvalidConfiguration(f"configuration {path}: {name}: there is no such setting")
        values = loaded or {}
    try:
        return Settings(**{**values, **overrides})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {_fault(e)}" for e in error.errors())
        raise InvalidConfiguration(f"configuration {path or '(environment)'}: {faults}") from error
    except SettingsError as error:  # names the variable, never its value
        raise InvalidConfiguration(f"configuration (environment, {SECRETS_DIRECTORY}): {error}") from error
    except OSError as error:
        raise InvalidConfiguration(
            f"the secret {error.filename} cannot be read: {error.strerror}",
            next_action=f"let the user of the service (uid {os.geteuid()}) read the file",
        ) from error
    except UnicodeError as error:
        raise InvalidConfiguration(f"a secret in {SECRETS_DIRECTORY} is no text of UTF-8") from error


def _fault(error: Any) -> str:
    """Say what is wrong with a value; of a name that is none, what could have been meant."""
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    models: list[type[BaseModel]] = [Settings]
    for part in error["loc"][:-1]:
        if isinstance(part, str):
            found = [model.model_fields[part].annotation for model in models if part in model.model_fields]
            models = [model for annotation in found for model in _models(annotation)]
    known = sorted({name for model in models for name in model.model_fields})
    near = get_close_matches(str(error["loc"][-1]), known, n=1)
    meant = f"; {near[0]} was meant?" if near else f"; here are {', '.join(known)}" if known else ""
    return f"there is no such setting{meant}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
