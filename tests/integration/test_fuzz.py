"""A slice of the fuzzing campaign: a minute in CI, a few seconds elsewhere. `python -m benchmarks.fuzz --minutes 30` is the long one."""

import os

import pytest

from benchmarks.fuzz.campaign import campaign, findings
from benchmarks.fuzz.mutations import OPERATIONS, mutated

SECONDS = 60 if os.environ.get("CI") else 8


def test_every_operation_changes_bytes_and_a_program_does_the_same_twice() -> None:
    data = bytes(range(256)) * 4
    for name in OPERATIONS:
        program = ((name, 0.5, 12_345),)
        assert mutated(data, program, (0, 100, 500)) != data, name
        assert mutated(data, program, (0, 100, 500)) == mutated(data, program, (0, 100, 500))
    assert mutated(b"", (("flip", 0.5, 1),)) == b""


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_broken_input_neither_crashes_nor_hangs_nor_leaks() -> None:
    result = campaign(SECONDS)
    assert findings(result) == []
    assert all(target["cases"] for target in result["targets"].values())
    answered = set(result["targets"]["data set"]["outcomes"])
    assert answered & {"status 0xC000", "status 0xC001", "status 0xA900"}  # the entry was reached, and judged
