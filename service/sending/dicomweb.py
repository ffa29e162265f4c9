"""Get earlier reports from a PACS over DICOMweb (PS3.18): QIDO-RS for what there is, WADO-RS for the instances.

The other way beside C-FIND with C-GET or C-MOVE, under the same deadline. No answer is held beyond a limit of bytes, none is read
past the deadline however slowly it drips, and no error text repeats an address with a query: it names the patient.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from service.bounded_http import Bounded, TooLarge
from service.conformance import STORAGE_CLASSES
from service.errors import CarpusError, InvalidConfiguration, Permanent, Retryable
from service.sending.retrieval import MAXIMUM_BYTES, MAXIMUM_INSTANCES, REPORTS, Found, late
from service.settings import DicomWebSettings, PriorSettings

if TYPE_CHECKING:
    from requests.auth import AuthBase

Answer = TypeVar("Answer")
# What the server should change, by the status of its answer.
ADVICE: Final = {
    401: "check the token or the password of priors.web of this destination, and that the PACS still accepts it",
    403: "in the PACS, allow this account to search and to retrieve studies over DICOMweb",
    404: "check the url of priors.web of this destination: it is the part before /studies",
}


class _Session(requests.Session):
    """Takes answers whole, within the deadline and the limit of bytes; asks no environment for proxies or passwords."""

    def __init__(self, seconds_left: Callable[[], float]) -> None:
        super().__init__()
        self.trust_env = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, Bounded(seconds_left, MAXIMUM_BYTES))

    def request(self, *args: Any, **options: Any) -> requests.Response:
        response = super().request(*args, **options)
        stated = re.search(r'boundary="?([^";\s]+)', response.headers.get("Content-Type", ""))
        if stated and not response.content.rstrip().endswith(f"--{stated[1]}--".encode("latin-1")):  # RFC 2046 5.1.1
            raise ValueError("the last part of the answer is missing")
        return response


@dataclass(frozen=True, slots=True)
class WebArchive:
    """A PACS that is asked over DICOMweb; what `retrieval.Archive` is over DIMSE.

    Parameters
    ----------
    deadline
        On the monotonic clock.
    """

    web: DicomWebSettings
    settings: PriorSettings
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Time left.

        Raises
        ------
        Retryable
            When there is none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise late(self.web.url, self.settings)
        return left

    def report_series(self, patient_id: str) -> list[Found]:
        """Return the report series of a patient, asked study by study."""
        found = []
        for study in self._search("studies", {"PatientID": patient_id, "ModalitiesInStudy": "SR"}):
            uid = _value(study, "0020000D")
            # Some archives match a patient's number loosely; an answer that names another patient is not ours.
            if not uid or _value(study, "00100020") not in ("", patient_id):
                continue
            for series in self._search("series", {"Modality": "SR"}, study=uid):
                series_uid, modality = _value(series, "0020000E"), _value(series, "00080060")
                if series_uid and modality in ("", "SR"):
                    found.append(Found(uid, series_uid, _value(study, "00080020"), _value(series, "0008103E")))
        return found

    def reports(self, series: Sequence[Found]) -> list[Dataset]:
        """Return every report of these series."""
        received: list[Dataset] = []
        for each in series:
            answer = self._ask("the retrieval of a series", partial(_series, each))
            received += _of_classes(answer, REPORTS)
        return received

    def film(self, study: str, series: str, instance: str) -> Dataset | None:
        """Return one film, None where the archive has it no more."""
        try:
            # As it is kept: every transfer syntax that may be there can be decoded here.
            asked = (("application/dicom", "*"),)
            found = self._ask(
                "the retrieval of a film",
                lambda client: [client.retrieve_instance(study, series, instance, media_types=asked)],
            )
        except Permanent as error:
            if error.code == "dicomweb-404":
                return None
            raise
        return next((ds for ds in _of_classes(found, STORAGE_CLASSES) if ds.SOPInstanceUID == instance), None)

    def _search(self, what: str, filters: dict[str, str], *, study: str = "") -> Iterator[dict[str, Any]]:
        def ask(client: DICOMwebClient) -> list[dict[str, Any]]:
            if study:
                return list(client.search_for_series(study, search_filters=filters, fields=["SeriesDescription"]))
            return list(client.search_for_studies(search_filters=filters, limit=MAXIMUM_INSTANCES))

        yield from (item for item in self._ask(f"the search for {what}", ask) if isinstance(item, dict))

    def _ask(self, what: str, ask: Callable[[DICOMwebClient], Answer]) -> Answer:
        """Put one question; whatever goes wrong becomes an error of ours that names the server and no patient."""
        url = self.web.url
        with _Session(lambda: self.seconds_left) as session:
            session.auth = _authorisation(self.web)
            session.verify = str(self.web.authorities) if self.web.authorities else True
            try:
                client = DICOMwebClient(url, session)
                client.set_http_retry_params(retry=False)
                return ask(client)
            except CarpusError:
                raise
            except requests.HTTPError as error:
                status = 0 if error.response is None else error.response.status_code
                kind = Retryable if status >= 500 or status in (408, 429) else Permanent
                raise kind(
                    f"{url} answered {status} to {what}", code=f"dicomweb-{status}", next_action=ADVICE.get(status, "")
                ) from None
            except requests.exceptions.SSLError:
                raise Permanent(
                    f"the certificate of {url} is not believed",
                    code="dicomweb-certificate",
                    next_action="give priors.web.authorities of this destination the authority of that certificate (PEM)",
                ) from None
            except TooLarge as error:
                raise Permanent(str(error), code="dicomweb-too-large") from None
            except requests.Timeout:
                raise late(url, self.settings) from None
            except requests.ConnectionError as error:
                if time.monotonic() >= self.deadline:  # a body that stalls comes as a broken connection
                    raise late(url, self.settings) from None
                raise Retryable(
                    f"{url} cannot be reached or ended {what}",
                    code="dicomweb-unreachable",
                    next_action="check the url of priors.web of this destination, and that the server there runs",
                ) from error
            # What foreign bytes make of JSON, of a multipart message and of a data set.
            except (
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
                EOFError,
                InvalidDicomError,
                requests.RequestException,
            ):
                raise Permanent(
                    f"{url} answered {what} with something else than DICOMweb",
                    code="dicomweb-unreadable",
                    next_action=ADVICE[404],
                ) from None


class _Bearer:
    """Puts a token into each request (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _authorisation(web: DicomWebSettings) -> "AuthBase | None":
    """Read the token, or user and password, anew at each question: a renewed file counts at once."""
    if web.token_file is not None:
        return cast("AuthBase", _Bearer(_secret(web.token_file)))
    if web.password_file is not None:
        return requests.auth.HTTPBasicAuth(web.user.encode(), _secret(web.password_file).encode())
    return None


def _secret(path: Path) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o007:
        raise InvalidConfiguration(
            f"{path} has mode {mode:04o}; others must not read it", next_action=f"chmod o= {path}"
        )
    if not text or "\n" in text:
        raise InvalidConfiguration(f"{path} has {len(text.splitlines())} lines; one is needed")
    return text


def _series(found: Found, client: DICOMwebClient) -> list[Dataset]:
    return client.retrieve_series(found.StudyInstanceUID, found.SeriesInstanceUID)


def _of_classes(received: Sequence[Dataset], classes: Sequence[UID]) -> list[Dataset]:
    return [ds for ds in received if ds.get("SOPClassUID") in classes and "SOPInstanceUID" in ds]


def _value(item: dict[str, Any], tag: str) -> str:
    """Return the first value of an attribute of the DICOM JSON model (PS3.18 F.2), empty where there is none of that form."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else ""
    return first.strip() if isinstance(first, str) else ""
