"""De-identify a folder of DICOM files into another, as a tool of its own (`carpus deidentify`).

The copies are filed by pseudonym, study and instance: a received file name may itself be the patient's.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from service.deidentification.burned_in.cleaning import clean_instance
from service.deidentification.confidentiality import Profile
from service.deidentification.deidentify import Action, deidentify, patient_of
from service.errors import Permanent
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

    Raises
    ------
    Permanent
        When the target lies within the source, so that copies would be copied.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise Permanent(
            f"the target {target} lies within the source", code="target-in-source", next_action="choose another target"
        )
    for path in files:
        name = path.name if path == source else str(path.relative_to(source))
        try:
            ds = dcmread(path)
            copy, actions = deidentify(ds, pseudonyms, profile, clean=clean_instance if profile.cleans_pixels else None)
        except InvalidDicomError:
            yield Outcome(name, None, code="not-dicom", reason="not a DICOM file")
            continue
        except OSError as error:
            yield Outcome(name, None, code="unreadable", reason=os.strerror(error.errno or 0))
            continue
        except Permanent as error:
            yield Outcome(name, None, code=error.code, reason=str(error))
            continue
        patient = patient_of(ds)
        place = Path(pseudonyms.patient(patient), str(copy.StudyInstanceUID), f"{copy.SOPInstanceUID}.dcm")
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        part = target / place.with_suffix(".part")
        copy.save_as(part, enforce_file_format=True)
        part.replace(target / place)
        vault.remember(
            pseudonyms.patient(patient),
            {
                pseudonyms.patient(patient): json.dumps(patient.split("\0"), ensure_ascii=False),
                str(copy.SOPInstanceUID): str(ds.SOPInstanceUID),
                str(copy.StudyInstanceUID): str(ds.get("StudyInstanceUID", "")),
            },
        )
        yield Outcome(name, str(place), tuple(actions))
