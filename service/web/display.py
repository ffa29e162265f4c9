"""Put numbers and names into the words of the pages."""

import datetime as dt
from typing import Final

from pydicom.uid import UID

BONES: Final = {
    "radius": "Radius",
    "ulna": "Ulna",
    "carpus": "Carpus",
    **{f"mc{n}": f"Metacarpal {n}" for n in range(1, 6)},
    **{f"pp{n}": f"Proximal phalanx {n}" for n in range(1, 6)},
    **{f"mp{n}": f"Middle phalanx {n}" for n in range(2, 6)},
    **{f"dp{n}": f"Distal phalanx {n}" for n in range(1, 6)},
}
STATES: Final = {
    "RECEIVED": "on disk and acknowledged",
    "PREPARED": "the copy without identity is written",
    "INFERRED": "read; the results are to be sent",
    "DELIVERED": "every destination accepted the results; the proof that it keeps them is awaited",
    "CONFIRMED": "every destination has proved that it keeps the results",
    "FILTERED": "not a film to be read",
    "REJECTED": "cannot be read; the reason was sent",
    "FAILED": "needs somebody",
    "CANCELLED": "stopped by a person",
}


def duration(value: dt.timedelta | float | None) -> str:
    """Return a length of time with its two largest units: 4 s, 12 min, 3 h 5 min, 2 d 4 h."""
    if value is None:
        return "–"
    seconds = max(0, int(value.total_seconds() if isinstance(value, dt.timedelta) else value))
    for unit, size, below, smaller in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def moment(value: dt.timedelta) -> str:
    """Return a length of time, below a minute with a decimal: 4.2 s, 12 min."""
    seconds = value.total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else duration(value)


def milliseconds(value: float | None) -> str:
    """Return a short duration: 12 ms, 1.25 s."""
    if value is None:
        return ""
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def size(count: float) -> str:
    """Return a number of bytes: 6.1 MB, 1.2 TB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def years(value: float | None) -> str:
    """Return an age in years with one decimal."""
    return "–" if value is None else f"{value:.1f} y"


def years_and_months(value: float | None) -> str:
    """Return an age as years and whole months, as paediatricians say it."""
    if value is None:
        return ""
    months = round(value * 12)
    return f"{months // 12} y {months % 12} mo"


def signed(value: float | None) -> str:
    """Return a difference of ages with its sign."""
    return "" if value is None else f"{value:+.1f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Return a probability as a percentage."""
    return "" if value is None else f"{100 * value:.0f} %"


def bone(name: str) -> str:
    """Return a region's name in words."""
    return BONES.get(name, name)


def sop_class(uid: str) -> str:
    """Return the name of a SOP class or transfer syntax, or the UID where it has none."""
    return UID(uid).name.replace(" Storage", "")


def status(code: int | None) -> str:
    """Return a DIMSE status as the standard prints it."""
    return "–" if code is None else f"0x{code:04X}"


def stamp(at: dt.datetime) -> str:
    """Return a time as text in UTC; the script turns it into the reader's own time."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


FILTERS: Final = {
    "duration": duration,
    "moment": moment,
    "milliseconds": milliseconds,
    "size": size,
    "years": years,
    "years_and_months": years_and_months,
    "signed": signed,
    "percent": percent,
    "bone": bone,
    "sop_class": sop_class,
    "status": status,
    "stamp": stamp,
}
