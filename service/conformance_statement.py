"""Write the DICOM Conformance Statement (after PS3.2) from the tables that the code itself uses.

`python -m service.conformance_statement > docs/conformance_statement.md` renews the page; a test holds it to the code.
"""

import sys
from collections.abc import Iterable, Iterator

from pydicom.uid import UID

from service.conformance import (
    REFUSED_TRANSFER_SYNTAXES,
    REJECTIONS,
    RESULT_CLASSES,
    RESULT_OBJECTS,
    STATUSES,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from service.receiving.commitments import MAXIMUM_ANSWERS
from service.receiving.places import ECHO_RESERVE, INSTANCES_UNDER_WAY, MAXIMUM_PENDING
from service.receiving.transport import MAXIMUM_REQUEST_BYTES
from service.reporting.codes import PRIVATE_SCHEME
from service.reporting.source import PATIENT, REQUIRED, TYPE_2, TYPE_3
from service.result_profile import BUILT_IN, SERIES
from service.routing import RULES, Outcome
from service.sending.commitment import INVALID_ARGUMENT, NOT_AUTHORISED, PROCESSING_FAILURE, PUSH_MODEL, SUCCESS
from service.sending.confirmation import BATCH, REASONS
from service.sending.query import STUDY_ROOT_FIND
from service.sending.retrieval import GET, MAXIMUM_BYTES, MAXIMUM_INSTANCES, MOVE, REPORTS
from service.sending.scu import PERMANENT_RANGES, PERMANENT_STATUSES
from service.settings import ConfirmationSettings, Limits, PriorSettings, Settings
from service.trust.tls import SUITES

_FATE = {Outcome.FILTER: "filtered: nothing is sent", Outcome.REJECT: "rejected: the reason is sent as a report"}


def statement() -> str:
    """Return the statement as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    limits = Limits()
    yield """# DICOM Conformance Statement

<!-- Generated: python -m service.conformance_statement. Do not edit; a test holds this page to the code. -->

Carpus receives radiographs of the hand, reads the bone age and returns the result to the same study.
For research, not for clinical use. Figures are the defaults of the settings.

## Networking

| Service | Role | SOP class |
|---|---|---|"""
    yield from _rows((("Verification", "SCP and SCU", _named(VERIFICATION)),))
    yield from _rows(("Storage", "SCP", _named(uid)) for uid in STORAGE_CLASSES)
    yield from _rows(
        ("Storage", "SCU", f"{kind}: {_named(uid)}") for kind, classes in RESULT_CLASSES.items() for uid in classes
    )
    yield from _rows((("Storage Commitment Push Model", "SCU and SCP", _named(PUSH_MODEL)),))
    yield from _rows((("Query/Retrieve", "SCU (C-FIND)", _named(STUDY_ROOT_FIND)),))
    yield from _rows((("Query/Retrieve", "SCU (C-GET), earlier reports", _named(GET)),))
    yield from _rows((("Query/Retrieve", "SCU (C-MOVE), earlier reports", _named(MOVE)),))
    yield """
Multi-frame Secondary Capture and every other class get no presentation context.

### Transfer syntaxes of the Storage SCP

Of several in one presentation context the first of this list is taken.

| Name | UID |
|---|---|"""
    yield from _rows((uid.name, f"`{uid}`") for uid in TRANSFER_SYNTAXES)
    yield ""
    for uid, why in REFUSED_TRANSFER_SYNTAXES.items():
        yield f"Not accepted: {_named(uid)}: {why}."
    yield f"""
Results are sent in Explicit VR Little Endian, or in Implicit VR Little Endian where a peer accepts nothing else.

### Associations

{_associations(limits)}

| Rejected when | Code in the log | Result | Source | Reason |
|---|---|---|---|---|"""
    yield from _rows((r.meaning, f"`{r.code}`", r.result, r.source, r.reason) for r in REJECTIONS)
    yield """
### Statuses of C-STORE as SCP

Success means: on disk, flushed, and recorded in the database.

| Status | Meaning | When | What becomes of the bytes |
|---|---|---|---|"""
    yield from _rows((f"0x{s.code:04X}", s.name, s.meaning, s.kept) for s in STATUSES)
    yield f"""
Out of resources: less than {limits.minimum_free_disk_bytes} bytes free, {limits.maximum_backlog} instances not yet prepared,
one of them for more than {limits.maximum_backlog_seconds:g} s, a database that does not answer or takes more than
{limits.maximum_database_seconds:g} s, or a person who drains the service. ErrorComment names the cause.

### Statuses of C-STORE as SCU

Success and warnings: accepted. The failures below are not tried again; every other failure is.

| Status | Taken as |
|---|---|"""
    yield from _rows((f"0x{code:04X}", text) for code, (text, _) in PERMANENT_STATUSES.items())
    yield from _rows((f"0x{first:04X}–0x{last:04X}", text) for first, last, text in PERMANENT_RANGES)
    yield from _commitment(ConfirmationSettings())
    yield from _priors(PriorSettings())
    yield """
## What becomes of a received instance

The first rule that applies; an instance to which none applies is read, and its pixels may still say that it shows no hand.

| Rule | Outcome |
|---|---|"""
    yield from _rows((f"`{rule.code}`", _FATE[rule.outcome]) for rule in RULES)
    yield from _results()
    yield """
## Validation

Objects of 40 films that hold every pair of properties (class, polarity, spacing, laterality, orientation, character set, absent type 2
attribute, language, report class) are judged by dciodvfy and dcentvfy in the tests, and shall have no error; PixelMed's validator
judges templates, with no message but the ones listed with a reason in `tests/system/test_validators.py`. The whole product of 1,280
films is gone through by `python -m tests.system.validator_matrix`; its figures stand in `benchmarks/README.md`.

## Character sets

The identity of the patient and the study goes into the results byte for byte, with the Specific Character Set of the film. English
text is ASCII. Chinese text is written where that set can hold it: UTF-8, GB18030 and GBK do; an identity in ASCII alone is written in
ISO_IR 192; another single-byte set is extended by ISO 2022 IR 58. Beside a set that is unknown the result is written in English.

## Security

Plain DICOM on one port and, where certificates are set, secure connections on another (registered: 2762), or on that alone.
Secure connections follow the BCP 195 profile (PS3.15 B.12): TLS 1.2 or 1.3, both sides show a certificate, as requestor and as
acceptor. A certificate must be signed by a configured authority and carry the AE title, or the name configured for the peer, as
subject CN or subject alternative name; it may be pinned by SHA-256; a revocation list is optional. Cipher suites with TLS 1.2:

| Suite |
|---|"""
    yield from _rows((f"`{suite}`",) for suite in SUITES)
    yield """
A handshake has the time of an association request. Who speaks TLS on the plain port, or plain DICOM on the other, is named in the
log."""


def _results() -> Iterator[str]:
    negotiation_hours = Settings.model_fields["negotiation_hours"].default
    yield """
## Results

Everything stands in the study of the film, each kind in a series of its own. What a destination gets is its result profile.

| Kind | Modality | Content | Template | Series | Description | in Chinese |
|---|---|---|---|---|---|---|"""
    yield from _rows(
        (
            kind,
            made.modality,
            made.content,
            made.template,
            SERIES[kind].number,
            SERIES[kind].english,
            SERIES[kind].chinese,
        )
        for kind, made in RESULT_OBJECTS.items()
    )
    yield """
The disclaimer follows each description. A profile may give other numbers and descriptions, and the SC the modality of the film.

| Profile | Objects, in the order they are sent | Language | SR in the first of these that is accepted |
|---|---|---|---|"""
    yield from _rows(
        (f"`{name}`", ", ".join(profile.objects), profile.language, ", ".join(profile.report_classes))
        for name, profile in BUILT_IN.items()
    )
    yield f"""
Before a result is built the destination is asked, by an association without a C-STORE, which of the SOP classes above it accepts; the
answer is kept for {negotiation_hours:g} h, until the destination moves or a refusal contradicts it. What it does not accept is
left out and named in the job's timeline; where it accepts nothing of the profile the job fails at once and names the classes.
A film that was not read comes back as SR and SC with the reason and what to repeat, as far as the profile has them.

### Identifiers

SOP Instance, Series Instance and Tracking UIDs are derived (UUID version 5 under 2.25) from the SOP Instance UID of the film, the hash of
the weights, the kind, the SOP class of the report, the language, the destination with its profile, the sex used, and the number of the
re-issue: a repeated delivery sends the same instances, and one UID never stands for two classes.

### Attributes of the patient and the study

Copied undecoded from the film. Always present, empty where the film has none or no value of its representation:

{_listed(TYPE_2)}

Present where the film has them:

{_listed(TYPE_3)}

Private elements are not copied. In two instances of one study {", ".join(f"`{keyword}`" for keyword in PATIENT)} must not differ: else
the job fails and names them. Without {", ".join(f"`{keyword}`" for keyword in REQUIRED)} no result can be made.

### Codes

The private coding scheme `{PRIVATE_SCHEME}` is declared in the Coding Scheme Identification Sequence; every code stands in
[codes.md](codes.md). Reports are COMPLETE, UNVERIFIED and PRELIMINARY until a person verifies them; a corrected report names its
predecessor."""


def _listed(keywords: Iterable[str]) -> str:
    return "\n".join(f"- `{keyword}`" for keyword in keywords)


def _priors(own: PriorSettings) -> Iterator[str]:
    classes = ", ".join(uid.name for uid in REPORTS)
    yield f"""
## Earlier reports (Query/Retrieve SCU)

Off unless a destination has `priors` set. Before a report is made, the patient's studies are asked for (C-FIND, Study Root, level
STUDY, key PatientID; return keys StudyInstanceUID, StudyDate), then the SR series of each (level SERIES, key Modality; return keys
SeriesInstanceUID, SeriesDescription). Return keys that are missing from an answer are tolerated. The latest {own.maximum_reports} series
are retrieved at level SERIES by C-GET (SCP role selection for {classes}) or by C-MOVE to `{own.move_ae_title}`, a
listener that is open for the retrieval alone. With `reread`, single films are retrieved at level IMAGE. The whole takes at most
{own.timeout_seconds:g} s and {MAXIMUM_INSTANCES} instances; a failure leaves the report without
earlier bone ages and a line in the job's timeline.

With `retrieve: web` the same is asked over DICOMweb (PS3.18): QIDO-RS for studies by PatientID and ModalitiesInStudy, and for the SR
series of each by Modality (application/dicom+json); WADO-RS for series and single instances (multipart/related;
type="application/dicom"). Admission by bearer token or basic authentication, over TLS with the authorities of the settings. Redirects
are not followed, and an answer of more than {MAXIMUM_BYTES} bytes is not taken."""


def _commitment(own: ConfirmationSettings) -> Iterator[str]:
    delays = ", ".join(f"{delay:g}" for delay in own.check_delays_seconds)
    yield f"""
## Storage Commitment

### As SCU

After a destination accepted the results, an N-ACTION (action type 1) asks it to commit to at most {BATCH} instances at once. The
N-EVENT-REPORT is taken on the same association, which stays open for {own.hold_seconds:g} s, and on any later one to the listener, where
the destination has to be a listed peer; role selection is accepted for both roles, and missing role selection is tolerated. Without a
report within {own.report_timeout_seconds:g} s, or where the service is not offered, the instances are looked for by C-FIND (Study Root,
level IMAGE, by StudyInstanceUID and SeriesInstanceUID); an instance not found after {delays} s counts as not kept. What is not kept is sent
again at most {own.maximum_resends} times. Where neither service is offered the results stay accepted, and the job says so.

| FailureReason | Meaning | Sent again |
|---|---|---|"""
    yield from _rows((f"0x{code:04X}", text, "yes" if helps else "no") for code, (text, helps, _) in REASONS.items())
    yield f"""
### As SCP

A listed peer may ask for commitment to what it sent us. The N-EVENT-REPORT says what is true when it is sent: the instance has a row
in the database and a file in the store. It goes, on an association of our own with role selection, to the peer's `port`, or to the
destination of its AE title; else it comes on the association of the request. It is repeated until it is taken, at most
{MAXIMUM_ANSWERS} times.

**Carpus is no archive.** It keeps a received film only as long as its retention says. A modality must not delete its own copy because
Carpus committed to it.

| Answer | When |
|---|---|"""
    yield from _rows(
        (
            (f"0x{SUCCESS:04X}", "the request or report is recorded"),
            (f"0x{PROCESSING_FAILURE:04X}", "it cannot be recorded now; send it again"),
            (f"0x{INVALID_ARGUMENT:04X}", "it names no or an unknown transaction, or no instance"),
            (f"0x{NOT_AUTHORISED:04X}", "a report from another AE title than was asked"),
        )
    )


def _associations(limits: Limits) -> str:
    return f"""\
- Called AE title, calling AE title and address must match the settings `ae_title` and `peers`; nobody is listed at first.
- Maximum PDU length received: {limits.maximum_pdu_size} bytes.
- An association request of more than {MAXIMUM_REQUEST_BYTES} bytes is aborted.
- At most {limits.maximum_associations} associations at once, {limits.maximum_associations_per_address} from one address;
  {ECHO_RESERVE} more that ask for Verification alone.
- A connection has {limits.association_timeout_seconds:g} s to send its request; of {MAXIMUM_PENDING} silent ones the oldest
  makes room for the next.
- An association may be silent for {limits.network_timeout_seconds:g} s.
- No asynchronous operations, no extended negotiation, no user identity.
- A data set of more than {limits.maximum_instance_bytes} bytes ends the association, and so do {INSTANCES_UNDER_WAY} times
  as many from all peers at once."""


def _rows(rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"


def _named(uid: UID) -> str:
    return f"{uid.name} (`{uid}`)"


if __name__ == "__main__":
    sys.stdout.write(statement())
