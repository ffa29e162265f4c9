"""Say whose film it is: the UID of the study to who reads it, a pseudonym to everybody else."""

import base64
import hashlib
from dataclasses import dataclass

from service.trust.accounts import Role
from service.web.permissions import sees_identity


@dataclass(frozen=True, slots=True)
class Named:
    """A study as one role sees it."""

    text: str
    masked: bool
    accession_number: str = ""


class Masking:
    """Pseudonyms of this installation's pages; without its secret nobody gets from one to a UID, or tests a guess.

    Parameters
    ----------
    secret_key
        Of the pages: another one makes other pseudonyms.
    """

    def __init__(self, secret_key: str) -> None:
        self._key = hashlib.sha256(b"carpus-masking" + secret_key.encode()).digest()

    def study(self, role: Role | None, study_instance_uid: str, accession_number: str | None) -> Named:
        """Return what a role is shown of a study."""
        if sees_identity(role):
            return Named(study_instance_uid, masked=False, accession_number=accession_number or "")
        digest = hashlib.blake2b(study_instance_uid.encode(), key=self._key, digest_size=5).digest()
        return Named(base64.b32encode(digest).decode(), masked=True)  # eight letters: enough to talk about a study
