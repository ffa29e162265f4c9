"""Take a person's correction of a delivered reading: check it, read the tables again, and hand the new revision to delivery.

The tables are those of the bundle that made the reading, run by `models.scoring` as the Reader ran them; no pixel is looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from models import registry
from models.reading import Reading, Stage
from service.bundle import named
from service.errors import Permanent
from service.queue.jobs import Jobs
from service.reporting import wording
from service.reporting.amendment import Amendment, Predecessor
from service.tables import Job, ResultState

LONGEST_NAME: Final = 64  # PS3.5 6.2: characters of a component group of PN, and of LO
COMPONENTS: Final = 5  # family, given, middle, prefix, suffix


class InvalidAmendment(Permanent):
    """A correction that cannot be taken; the text names the value and what is allowed."""

    code = "invalid-amendment"


@cache
def describe(bundle: str) -> registry.Description:
    """Return what a bundle consists of; read and verified once a process.

    Raises
    ------
    InvalidConfiguration
        When its weights are refused.
    """
    with named():
        return registry.describe(bundle)


@dataclass(frozen=True, slots=True)
class Amendments:
    """Corrections of one installation.

    Parameters
    ----------
    bundle
        The installed bundle; a reading by another one is read again before it is corrected.
    organisation
        Of the observers who name none.
    """

    jobs: Jobs
    bundle: str = "default"
    organisation: str = ""
    describe: Callable[[str], registry.Description] = describe

    def amend(
        self,
        job_id: int,
        *,
        stages: Mapping[str, str],
        rejected: Sequence[str] = (),
        observer: str,
        organisation: str = "",
        verify: bool = False,
    ) -> int:
        """Correct the reading of a job; return the id of the job that delivers the corrected one.

        Parameters
        ----------
        stages
            Region -> RUS-CHN label, or a TW3 letter that stands for one label only.
        verify
            Whether the observer verifies the report as it stands; then a correction may be empty.

        Raises
        ------
        InvalidAmendment
            With the value and what is allowed.
        UnknownJob
            When the job is not delivered yet or was corrected before.
        """
        job = self.jobs.get(job_id)
        name, organisation = person_name(observer), _organisation(organisation or self.organisation, verify=verify)
        if not stages and not rejected and not verify:
            raise InvalidAmendment("nothing is corrected: name a stage or a region, or verify the report as it stands")
        earlier = self.jobs.amendment(job_id)
        original = _reading(job) if earlier is None else Reading.from_json(earlier.original)
        given, left_out = _together(
            {} if earlier is None else earlier.stages, () if earlier is None else earlier.rejected, stages, rejected
        )
        description = self.describe(self.bundle)
        if description.sha256 != original.bundle.sha256:
            raise InvalidAmendment(
                f"job {job_id} was read by bundle {original.bundle.sha256[:12]}, installed is {description.sha256[:12]}: "
                "other tables would be mixed with its stages",
                code="other-bundle",
                next_action=f"`carpus jobs requeue {job_id}` reads the film with the installed bundle; then correct that job",
            )
        try:
            reading = description.scoring.restage(original, given, left_out)
        except ValueError as error:
            raise InvalidAmendment(f"job {job_id}: {error}") from error
        labels = {bone: stage.label for bone in given if (stage := _stage(reading, bone)) is not None}
        amendment = Amendment(name, organisation, self.jobs.now(), verify, original, labels, left_out)
        stored = {
            "observer": name,
            "organisation": organisation,
            "verified": verify,
            "at": amendment.at,
            "stages": labels,
            "rejected": list(left_out),
            "original": original.to_json(),
        }
        changes = "; ".join(wording.corrections(amendment, "en")) or "nothing changed"
        how = "verified" if verify else "not verified"
        text = f"{changes}; {how} by {amendment.shown_observer}"
        return self.jobs.amend(job_id, stored, reading.to_json(), text)


def amendment_of(jobs: Jobs, job: Job, destination: str) -> Amendment | None:
    """Return the correction a job delivers, with the report it takes the place of at one destination; None without one."""
    row = jobs.amendment(job.id)
    if row is None:
        return None
    stages = {str(name): str(label) for name, label in row.stages.items()}
    return Amendment(
        row.observer,
        row.organisation,
        row.at,
        row.verified,
        Reading.from_json(row.original),
        stages,
        tuple(row.rejected),
        _predecessor(jobs, row.amended_job_id, destination),
    )


def parse_stages(given: Sequence[str]) -> dict[str, str]:
    """Read "mc5=7" pairs.

    Raises
    ------
    InvalidAmendment
        When one is no pair, or a bone is named twice.
    """
    stages: dict[str, str] = {}
    for text in given:
        name, equals, label = (part.strip() for part in text.partition("="))
        if not (name and equals and label):
            raise InvalidAmendment(f"{text!r} is no stage; a region and its stage are needed, such as mc5=7")
        if name.lower() in stages:
            raise InvalidAmendment(f"{name} is given two stages: {stages[name.lower()]} and {label}")
        stages[name.lower()] = label
    return stages


def person_name(text: str) -> str:
    """Return a person name in the form of PN; a name without components becomes the first of them.

    Raises
    ------
    InvalidAmendment
        When it is empty, too long, or holds what no name may hold.
    """
    name = " ".join(text.split())
    if not name.strip("^= "):
        raise InvalidAmendment("the observer is empty; a correction carries the name of a person")
    groups = name.split("=")
    if len(groups) > 3 or any(len(group.split("^")) > COMPONENTS for group in groups):
        raise InvalidAmendment(f"the observer's name has more than 3 groups (=) or {COMPONENTS} components (^)")
    if longest := next((len(group) for group in groups if len(group) > LONGEST_NAME), 0):
        raise InvalidAmendment(f"the observer's name has {longest} characters; {LONGEST_NAME} are allowed")
    if "\\" in name or not name.isprintable():
        raise InvalidAmendment("the observer's name holds a backslash or a control character")
    return name if "^" in name else f"{name}^^^^"[:LONGEST_NAME]


def _organisation(text: str, *, verify: bool) -> str:
    organisation = " ".join(text.split())
    if verify and not organisation:
        # PS3.3 C.17.2, Verifying Organization: type 1.
        raise InvalidAmendment(
            "the observer's organisation is empty; a verified report names it",
            next_action="give --organisation, or set institution_name in the configuration",
        )
    if len(organisation) > LONGEST_NAME or "\\" in organisation or not organisation.isprintable():
        raise InvalidAmendment(
            f"the organisation has {len(organisation)} characters; {LONGEST_NAME} are allowed, no backslash among them"
        )
    return organisation


def _reading(job: Job) -> Reading:
    if job.reading is None or job.outcome != "reading":
        raise InvalidAmendment(f"job {job.id} is {job.state} and holds no reading that could be corrected")
    try:
        return Reading.from_json(job.reading)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidAmendment(
            f"the reading of job {job.id} was kept by another version of Carpus",
            next_action=f"`carpus jobs requeue {job.id}` reads the film once more",
        ) from error


def _together(
    stages: Mapping[str, str], rejected: Sequence[str], new_stages: Mapping[str, str], new_rejected: Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Join a correction with the one before it; the later word on a region holds."""
    regions = tuple(dict.fromkeys(name.strip().lower() for name in new_rejected))
    given = {name: label for name, label in stages.items() if name not in regions} | dict(new_stages)
    return given, tuple(dict.fromkeys((*(name for name in rejected if name not in new_stages), *regions)))


def _stage(reading: Reading, name: str) -> Stage | None:
    region = reading.region(name)
    return None if region is None else region.stage


def _predecessor(jobs: Jobs, job_id: int, destination: str) -> Predecessor | None:
    kept = (ResultState.ACCEPTED, ResultState.CONFIRMED)
    for row in jobs.results(job_id):
        if (row.destination, row.kind) == (destination, "SR") and row.state in kept:
            return Predecessor(row.SOPClassUID, row.SOPInstanceUID, row.SeriesInstanceUID)
    return None
