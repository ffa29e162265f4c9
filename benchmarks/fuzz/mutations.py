"""Break bytes: a program of a few operations, drawn by hypothesis, that knows where the elements of a data set begin.

A program is plain data, so that a finding can be repeated from its record.
"""

from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import strategies as st

Program = tuple[tuple[str, float, int], ...]
Operation = Callable[[bytearray, int, int], None]

LENGTHS: Final = (0, 1, 2, 3, 7, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
VRS: Final = (b"SQ", b"OB", b"OW", b"UN", b"UT", b"US", b"IS", b"UI", b"PN", b"AT", b"FD", b"??", b"\0\0")
HOSTILE: Final = (
    b"../../../../etc/passwd",
    b"..\\..\\windows",
    b"1.2.3/../../x",
    b"'; DROP TABLE jobs; --",
    b"<script>alert(1)</script>",
    b"\x1b$)C\x1b$B\x1b(J",
    b"\xff" * 64,
    b"%n%s%x",
    b"\0" * 70,
    b"9" * 300,
    b"1" + b".1" * 60,
)
ITEM: Final = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"  # an item of undefined length (PS3.5 7.5)


def _flip(data: bytearray, at: int, value: int) -> None:
    data[at] ^= value & 0xFF or 1


def _set(data: bytearray, at: int, value: int) -> None:
    data[at] = (0, 0xFF, 0x7F, 0x80)[value % 4]


def _length_16(data: bytearray, at: int, value: int) -> None:
    data[at + 6 : at + 8] = (LENGTHS[value % len(LENGTHS)] & 0xFFFF).to_bytes(2, "little")


def _length_32(data: bytearray, at: int, value: int) -> None:
    place = at + (4, 8)[value // 100 % 2]  # implicit VR, or explicit with a long VR
    data[place : place + 4] = LENGTHS[value % len(LENGTHS)].to_bytes(4, ("little", "big")[value // 1000 % 2])


def _vr(data: bytearray, at: int, value: int) -> None:
    data[at + 4 : at + 6] = VRS[value % len(VRS)]


def _tag(data: bytearray, at: int, value: int) -> None:
    data[at : at + 4] = value.to_bytes(4, "little")


def _insert(data: bytearray, at: int, value: int) -> None:
    data[at:at] = HOSTILE[value % len(HOSTILE)]


def _overwrite(data: bytearray, at: int, value: int) -> None:
    text = HOSTILE[value % len(HOSTILE)]
    data[at + 8 : at + 8 + len(text)] = text


def _delete(data: bytearray, at: int, value: int) -> None:
    del data[at : at + 1 + value % 64]


def _repeat(data: bytearray, at: int, value: int) -> None:
    data[at:at] = data[at : at + 1 + value % 128] * (1 + value // 1000 % 50)


def _truncate(data: bytearray, at: int, _value: int) -> None:
    del data[at:]


def _nest(data: bytearray, at: int, value: int) -> None:
    sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + ITEM
    data[at:at] = sequence * (1, 10, 200, 2000)[value % 4]


def _swap(data: bytearray, at: int, value: int) -> None:
    other = value % len(data)
    data[at : at + 16], data[other : other + 16] = data[other : other + 16], data[at : at + 16]


OPERATIONS: Final[dict[str, Operation]] = {
    "flip": _flip,
    "set": _set,
    "length 16": _length_16,
    "length 32": _length_32,
    "vr": _vr,
    "tag": _tag,
    "insert": _insert,
    "overwrite": _overwrite,
    "delete": _delete,
    "repeat": _repeat,
    "truncate": _truncate,
    "nest": _nest,
    "swap": _swap,
}
# What works on an element is aimed at the beginning of one, most of the time.
AIMED: Final = {"length 16", "length 32", "vr", "tag", "overwrite", "delete", "repeat", "truncate", "nest"}
MAXIMUM_GROWTH: Final = 1024**2  # bytes: a bigger input is the business of the limits, not of this

programs: st.SearchStrategy[Program] = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.floats(0, 1, width=32), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=6,
).map(tuple)


def mutated(data: bytes, program: Program, starts: Sequence[int] = ()) -> bytes:
    """Return the bytes after every operation of the program."""
    changed = bytearray(data)
    for name, where, value in program:
        if not changed or len(changed) > len(data) + MAXIMUM_GROWTH:
            break
        at = min(len(changed) - 1, int(where * len(changed)))
        if starts and name in AIMED and value % 8:
            at = min(len(changed) - 1, starts[min(len(starts) - 1, int(where * len(starts)))])
        OPERATIONS[name](changed, at, value)
    return bytes(changed)
