"""De-identify a folder of DICOM files into another, as a tool of its own (`carpus deidentify`).

The copies are filed by pseudonym, study and instance: a received file name may itself be the patient's.
"""

import filecmp
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from service.deidentification.burned_in.cleaning import clean_instance
from service.deidentification.confidentiality import Profile
from service.deidentification.deidentify import Action, deidentify, patient_of
from service.errors import CarpusError, InvalidInstance, Permanent, Retryable
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: a copy with its actions, or the reason why there is none."""

    file: str  # relative to the source folder
    copy: str | None  # relative to the target folder
    actions: tuple[Action, ...] = ()
    code: str = ""
    reason: str = ""

    def to_json(self) -> str:
        """Return one line of the report; it holds no value, but the name of the source file."""
        data: dict[str, Any] = {"file": self.file, "copy": self.copy}
        if self.copy is None:
            data |= {"code": self.code, "reason": self.reason}
        else:
            data["actions"] = [asdict(action) for action in self.actions]
        return json.dumps(data, ensure_ascii=False)


def files_of(source: Path) -> list[Path]:
    """Return every file below a folder in a stable order, or the file itself."""
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())


def copy_files(
    files: list[Path], source: Path, target: Path, pseudonyms: Pseudonyms, vault: Vault, profile: Profile
) -> Iterator[Outcome]:
    """De-identify the files one by one; a file that must not or cannot be copied is an outcome, never a gap.

    Two files of the same SOP Instance UID are one copy where they become the same bytes; else the second is refused, for it would
    take the place of the first.

    Raises
    ------
    Permanent
        When the target lies within the source, so that copies would be copied.
    Retryable
        When a copy cannot be written; what was copied before stays, and a second run does the rest.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise Permanent(
            f"the target {target} lies within the source", code="target-in-source", next_action="choose another target"
        )
    written: set[Path] = set()
    for path in files:
        name = path.name if path == source else str(path.relative_to(source))
        try:
            ds, copy, actions = _deidentified(path, pseudonyms, profile)
        except OSError as error:
            yield Outcome(name, None, code="unreadable", reason=os.strerror(error.errno or 0))
            continue
        except Permanent as error:
            yield Outcome(name, None, code=error.code, reason=str(error))
            continue
        patient = patient_of(ds)
        place = Path(pseudonyms.patient(patient), str(copy.StudyInstanceUID), f"{copy.SOPInstanceUID}.dcm")
        try:
            kept = _write(copy, target / place, before=place in written)
        except OSError as error:
            raise Retryable(
                f"a copy cannot be written to {target}: {os.strerror(error.errno or 0)}",
                code="target-not-writable",
                next_action="give the folder room and rights, then run the command again: it makes the same copies",
            ) from None
        if not kept:
            reason = "another file has the same SOP Instance UID and other content"
            yield Outcome(name, None, code="same-instance", reason=reason)
            continue
        written.add(place)
        vault.remember(
            pseudonyms.patient(patient),
            {
                pseudonyms.patient(patient): json.dumps(patient.split("\0"), ensure_ascii=False),
                str(copy.SOPInstanceUID): str(ds.SOPInstanceUID),
                str(copy.StudyInstanceUID): str(ds.StudyInstanceUID),
            },
        )
        yield Outcome(name, str(place), tuple(actions))


def _deidentified(path: Path, pseudonyms: Pseudonyms, profile: Profile) -> tuple[Dataset, Dataset, list[Action]]:
    """Return a file as it is and without its identity.

    Raises
    ------
    InvalidInstance
        When it is no DICOM file, cannot be parsed, or does not say which instance of which study it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat values of the patient
            ds = dcmread(path)
            missing = [keyword for keyword in ("StudyInstanceUID", "SOPInstanceUID") if not ds.get(keyword)]
            if missing:
                raise InvalidInstance(f"{missing[0]} is missing", code="missing-attribute")
            copy, actions = deidentify(ds, pseudonyms, profile, clean=clean_instance if profile.cleans_pixels else None)
    except InvalidDicomError:
        raise InvalidInstance("not a DICOM file", code="not-dicom") from None
    except (CarpusError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a parser makes of hostile bytes, it is the same outcome
        kind = type(error).__name__
        raise InvalidInstance(f"the data set cannot be parsed: {kind}", code="cannot-parse") from None
    return ds, copy, list(actions)


def _write(copy: Dataset, path: Path, *, before: bool) -> bool:
    """Write a copy whole or not at all; False when another copy of this run (`before`) stands there and is not the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        copy.save_as(part, enforce_file_format=True)
        if before and not filecmp.cmp(part, path, shallow=False):
            return False
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True
