"""Hold what a person corrected in a reading: who, when, which bones, and the values of the algorithm beside it."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.reading import MethodResult, Reading


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The report that a corrected one takes the place of, as the destination has it."""

    SOPClassUID: str
    SOPInstanceUID: str
    SeriesInstanceUID: str


@dataclass(frozen=True, slots=True)
class Amendment:
    """One correction, whole: every stage given and every region rejected since the algorithm's own reading.

    Parameters
    ----------
    observer
        Person name (PS3.5 6.2, PN).
    organisation
        Of the observer; PS3.3 C.17.2 demands it of a verified report.
    original
        The algorithm's own reading; its values stay visible beside the corrected ones.
    stages
        Region -> RUS-CHN label as given.
    predecessor
        None where this destination never got a report of the film.
    """

    observer: str
    organisation: str
    at: dt.datetime
    verified: bool
    original: Reading
    stages: Mapping[str, str] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    predecessor: Predecessor | None = None

    @property
    def key(self) -> str:
        """What tells this correction from any other; part of every UID derived from it."""
        changes = [sorted(self.stages.items()), sorted(self.rejected)]
        who = [self.observer, self.organisation, self.at.isoformat(), self.verified]
        return hashlib.sha256(json.dumps([changes, who]).encode()).hexdigest()

    @property
    def shown_observer(self) -> str:
        """The name as people write it: given name before family name, for a name in components; else as it stands."""
        first = self.observer.split("=")[0]
        family, *rest = first.split("^")
        given = rest[0] if rest else ""
        return " ".join(part for part in (given, family) if part)

    def before(self, method: MethodResult) -> MethodResult | None:
        """Return the algorithm's own result of a method on the same curve."""
        same = (m for m in self.original.methods if (m.name, m.sex) == (method.name, method.sex))
        return next(same, None)

    def stage_before(self, name: str) -> str | None:
        """Return the stage the algorithm gave to a bone, None where it gave none."""
        region = self.original.region(name)
        return region.stage.label if region is not None and region.stage is not None else None
