"""Write down what a confidentiality profile does, from the rules and handlers themselves.

`carpus deidentify --explain` prints it; docs/deidentification.md is the same text for the profile that ships.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from inspect import getdoc

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.uid import UID

from service.deidentification.actions import DUMMIES, HANDLERS
from service.deidentification.confidentiality import CLEAN_PIXELS, OPTIONS, Profile
from service.deidentification.deidentify import INFERENCE, INFERENCE_TABLES


def statement(profile: Profile) -> str:
    """Return the statement as Markdown."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    yield f"""# De-identification

<!-- Generated: carpus deidentify --explain. Do not edit; a test holds this page to the code. -->

Profile `{profile.name}`: the Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E, Table E.1-1, edition
{profile.edition} ({len(profile.rows)} attributes and the rows for repeating and private groups), with the options below. Inference
sees less still, see "What inference sees". For research, not for clinical use.

## Options

| Option | Code (CID 7050) | In this profile |
|---|---|---|
| {profile.methods[0].meaning} | {profile.methods[0].code} | yes |"""
    for option, method in OPTIONS.items():
        yield f"| {method.meaning} (`{option}`) | {method.code} | {'yes' if option in profile.options else 'no'} |"
    stated = "yes, stated for an instance whose pixels were cleaned" if profile.cleans_pixels else "no"
    yield f"| {CLEAN_PIXELS.meaning} (`clean-pixel-data`) | {CLEAN_PIXELS.code} | {stated} |"
    yield """
Clean Descriptors is carried out by removal: what the table marks for cleaning is removed, emptied or replaced as the Basic
Profile says, never edited. The age is computed from the dates before they go, and stated in months (from 90 years on as 090Y).
Clean Recognizable Visual Features (113102) is not stated: a film of a hand shows no face. Graphics drawn over a film go with Clean
Graphics and with the groups 50xx and 60xx.

## Actions

| Letter | What is done |
|---|---|"""
    for letter, handler in HANDLERS.items():
        yield f"| {letter} | {getdoc(handler)} |"
    yield f"""
Fixed values of action D: {", ".join(f"{vr} `{_shown(value)}`" for vr, value in DUMMIES.items())}.

A compound action of the table takes its first letter in the image classes, where these attributes are optional (except
{_keywords(profile.keep_in_images)}), and its last letter elsewhere, which keeps every object valid; a U among the letters wins.

## Beyond the table

- Every sequence that is kept is walked to any depth with the same rules.
- Private attributes are removed{_safe(profile)}. So is every attribute that the data dictionary does not know, or whose value
  representation is not the one the dictionary states.
- Groups 50xx (curves) and 60xx (overlays) are removed whole; so are groups 0000, 0002, 0004 and 0006 within a data set.
- In groups {", ".join(f"{group:04X}" for group in sorted(profile.closed_groups))} whatever the table does not list is removed.
- Of text (AE, LO, LT, PN, SH, ST, UC, UR, UT) that the table does not list only these attributes are kept:
  {_keywords(profile.retained_text)}.
- Of bulk data only these are kept: {_keywords(profile.retained_bulk)}.
- Dates and times that the table does not list move like the others; UIDs it does not list are mapped like the others.
- Kept text and codes are searched for the words of the header that identify: names of persons, identifiers, addresses, the
  institution. A hit removes the attribute, or replaces its value where the attribute may be required.
- The file meta information and the preamble are written afresh. Pixel data is decoded and written as plain little endian
  samples, cut to size, with the bits outside of Bits Stored cleared; comments of a codestream, trailing bytes and planes in
  unused bits do not survive.
- Instances of other SOP classes than these are refused: {", ".join(UID(uid).name for uid in sorted(profile.images | profile.others))}.

## Text in the pixels

Everything outside the hand, which is found from the pixels, is blanked with the level of the background there. What is left is
searched for text by a recogniser (PP-OCRv6, whose weights come with the package RapidOCR): at half size, and closely where thin
sharp lines may be small writing. What is found is read at 0, 90, 180 and 270 degrees and mirrored and compared with the
header's names (also in pinyin), numbers and dates. A place that shows no ink and of which the recogniser is not sure that it
holds text is read in fewer positions, or not at all: bones look like that. A place is taken for writing when it names the
patient, when it reads clearly, or when it is in ink: of one level, with edges of one pixel, as a device writes and no bone
shows. Of a line in ink the strokes are filled, as far as the line goes; where the strokes cannot be told, or something of them
can be read again, the whole line. The fill spans what lies beside it and gets the grain of it. Then the place is looked at
again, three times at most. What can still be read then refuses the copy for export (`burned-in-text`); for inference, which
stays in the house, the cleaned film is used and says so in BurnedInAnnotation. Where no hand is found the whole film is
searched. Side markers are blanked like all else, and what they say is kept as a finding. A single letter or digit that is not
in ink (a lead letter over the hand) stays: it names nobody, and joints look like it.

| Added attribute | Action |
|---|---|"""
    for tag, letter in sorted(profile.additional.items()):
        yield f"| {keyword_for_tag(tag)} | {letter} |"
    yield """
## Pseudonyms

PatientID and PatientName become `P-` and 12 characters, StudyID and AccessionNumber 12 characters, UIDs a number under 2.25: all
by HMAC-SHA256 under the key of the installation, so they are equal in every study and cannot be guessed from outside. Dates of a
patient move one to ten years into the past, by days and seconds, always by the same amount: intervals stay exact. The way back
is kept apart, sealed with AES-256-GCM.

## What inference sees

Pixels with their description, mapped UIDs, the SOP class, and of the rest only: """
    yield f"{', '.join((*INFERENCE, *INFERENCE_TABLES))}."
    yield """
## Every attribute of the table

"Image" is what is done in an image class, "other" in the other classes.

| Tag | Attribute | VR | Table | Image | Other | By |
|---|---|---|---|---|---|---|"""
    totals: Counter[str] = Counter()
    for tag, row in sorted(profile.rows.items()):
        image, other = profile.rule(tag, image=True), profile.rule(tag, image=False)
        totals[image.letter] += 1
        vr = dictionary_VR(tag)
        name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        by = "the Basic Profile" if image.reason.startswith("E.1-1") else image.reason
        yield f"| {name} | {row.name} | {vr} | {row.basic} | {image.letter} | {other.letter} | {by} |"
    yield f"\nIn an image class: {', '.join(f'{letter} {count}' for letter, count in sorted(totals.items()))}."


def _keywords(tags: Iterable[int]) -> str:
    return ", ".join(keyword_for_tag(tag) for tag in sorted(tags))


def _shown(value: object) -> str:
    return "two zero bytes" if isinstance(value, bytes) else str(value)


def _safe(profile: Profile) -> str:
    if not profile.safe_private:
        return "; none is listed as safe"
    listed = (f"{creator} ({group:04X},xx{element:02X}) {vr}" for creator, group, element, vr in profile.safe_private)
    return f", except {', '.join(sorted(listed))}"
