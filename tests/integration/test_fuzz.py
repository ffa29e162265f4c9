"""A slice of the fuzzing campaign: a minute in CI, a few seconds elsewhere. `python -m benchmarks.fuzz --minutes 30` is the long one."""

import os
import time

import pytest

from benchmarks.fuzz import seeds
from benchmarks.fuzz.campaign import ROUND, campaign, findings
from benchmarks.fuzz.campaign import _round as round_of_cases
from benchmarks.fuzz.films import Worker
from benchmarks.fuzz.finding import Late, Tally
from benchmarks.fuzz.mutations import OPERATIONS, mutated

SECONDS = 60 if os.environ.get("CI") else 8


def test_every_operation_changes_bytes_and_a_program_does_the_same_twice() -> None:
    data = bytes(range(256)) * 4
    for name in OPERATIONS:
        program = ((name, 0.5, 12_345),)
        assert mutated(data, program, (0, 100, 500)) != data, name
        assert mutated(data, program, (0, 100, 500)) == mutated(data, program, (0, 100, 500))
    assert mutated(b"", (("flip", 0.5, 1),)) == b""


@pytest.mark.parametrize("again", [True, False])
def test_only_a_case_that_is_late_again_is_a_hang(again: bool) -> None:
    sent: list[object] = []

    def sender(seed: seeds.Seed, program: object) -> str:
        sent.append(program)
        if len(sent) == 1 or (again and len(sent) == len(drawn) + 1):
            raise Late("hang", f"{seed.name}, {program!r}")
        return "answered"

    known, tally = list(seeds.phantoms())[:1], Tally()
    drawn = range(ROUND)
    round_of_cases(sender, known, tally, 1, until=time.monotonic() + 60)
    assert (tally.cases, tally.late, tally.late_again) == (ROUND, 1, int(again))
    assert sent[-1] == sent[0], "not the late case was sent again"
    assert list(tally.findings) == (["hang"] if again else [])
    assert tally.outcomes["answered"] == ROUND - int(again)


# What campaigns have found, each mended: (seed, program).
FOUND = {
    "a panic of the RLE codec ended the process": (
        "phantom CR RLE Lossless",
        (("delete", 0.4005888575896698, 1239338272),),
    ),
    "the same, from another place": (
        "phantom CR RLE Lossless",
        (("swap", 0.3209951144197126, 544889807), ("swap", 0.6025465588970121, 51278754)),
    ),
    "a number of an odd length in the header": (
        "phantom DX Implicit VR Little Endian",
        (("length 32", 0.38762312421927393, 293006148),),
    ),
    "BitsStored of another representation": (
        "phantom CR Explicit VR Little Endian",
        (("vr", 0.8568473509253587, 3069626906),),
    ),
    "the same in big endian": ("phantom SC Explicit VR Big Endian", (("vr", 0.8636210934337745, 770948743),)),
    "sequences nested beyond the limit of recursion": (
        "phantom SC Explicit VR Big Endian",
        (("repeat", 0.2870103418827057, 319650), ("nest", 0.0, 7)),
    ),
}


@pytest.mark.integration
def test_what_was_found_once_stays_mended() -> None:
    known = {seed.name: seed for seed in seeds.phantoms()}
    with Worker() as worker:
        said = {title: worker.run(known[name], program) for title, (name, program) in FOUND.items()}
    assert all(text.startswith(("refused", "routing", "unreadable", "read")) for text in said.values()), said


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_broken_input_neither_crashes_nor_hangs_nor_leaks() -> None:
    result = campaign(SECONDS)
    assert findings(result) == []
    assert all(target["cases"] for target in result["targets"].values())
    answered = set(result["targets"]["data set"]["outcomes"])
    assert answered & {"status 0xC000", "status 0xC001", "status 0xA900"}  # the entry was reached, and judged
