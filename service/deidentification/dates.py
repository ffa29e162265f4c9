"""Read DICOM dates and times, move them, and compute an age before they move."""

import re
from datetime import date, datetime, time, timedelta
from typing import Final

from pydicom.dataset import Dataset

# PS3.5 6.2: DA is YYYYMMDD (before 1993 with dots), TM is HH[MM[SS[.F]]], DT joins them and may end in an offset.
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?(?:[+-]\d{4})?")
DAYS_PER_MONTH: Final = 365.25 / 12
OLDEST_STATED_YEARS: Final = 89  # above, an age narrows a person down (45 CFR 164.514(b)(2)(i)(C)); stated as 90


def parse_date(text: str) -> date | None:
    """Return the date of a DA value, or None when it is not one."""
    match = _DATE.fullmatch(text.strip())
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def parse_time(text: str) -> time | None:
    """Return the time of a TM value, or None when it is not one."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    try:
        # PS3.5 6.2 allows second 60 for a leap second; Python does not.
        return time(int(hour), int(minute or 0), min(int(second or 0), 59), int((fraction or "0").ljust(6, "0")))
    except ValueError:
        return None


def shifted(text: str, vr: str, partner: str, shift: timedelta) -> str | None:
    """Return a DA, TM or DT value moved by `shift`, or None when it is not a valid one.

    Parameters
    ----------
    partner
        The time that belongs to a date (StudyTime to StudyDate), or the date that belongs to a time: with it a move
        past midnight changes the date as it must, and intervals stay exact.
    """
    try:
        if vr == "DT":
            return _shifted_datetime(text.strip(), shift)
        day = parse_date(text if vr == "DA" else partner)
        clock = parse_time(partner if vr == "DA" else text)
        if vr == "DA":
            if day is None:
                return None
            moved = datetime.combine(day, clock) + shift if clock else day + timedelta(days=shift.days)
            return f"{moved:%Y%m%d}".rjust(8, "0")
        if clock is None:
            return None
        # Without its date a time has no day to leave.
        moment = datetime.combine(day or date(2000, 1, 1), clock) + shift
        return _clock(moment, with_fraction="." in text)
    except OverflowError:
        return None


def _shifted_datetime(text: str, shift: timedelta) -> str | None:
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, clock = match.groups()
    start = parse_date(f"{year}{month or '01'}{day or '01'}")
    at = parse_time(clock) if clock else time()
    if start is None or at is None:
        return None
    moved = datetime.combine(start, at) + shift
    stamp = f"{moved:%Y%m%d}".rjust(8, "0")
    # The offset is left out: it names a place, and the moved time has none.
    return stamp + (_clock(moved, with_fraction="." in clock) if clock else "")


def _clock(moment: datetime, *, with_fraction: bool) -> str:
    return f"{moment:%H%M%S.%f}" if with_fraction else f"{moment:%H%M%S}"


def age_days(ds: Dataset) -> int | None:
    """Return the age in days on the day of the film, or None when the header does not give both dates.

    Call it before de-identification: afterwards there is no date of birth.
    """
    born = parse_date(str(ds.get("PatientBirthDate") or ""))
    for keyword in ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate"):
        taken = parse_date(str(ds.get(keyword) or ""))
        if born and taken and taken >= born:
            return (taken - born).days
    return None


def age_string(days: int) -> str:
    """Return an age as AS in months, the finest unit that fits a child of any age; from 90 years on it is 090Y."""
    months = int(days / DAYS_PER_MONTH)
    return f"{months:03d}M" if months <= min(999, OLDEST_STATED_YEARS * 12 + 11) else _years(months // 12)


def _years(years: int) -> str:
    return f"{min(years, OLDEST_STATED_YEARS + 1):03d}Y"
