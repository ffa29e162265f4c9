"""Find the real peers and judges; a test that needs one that is missing says so and skips, never in CI."""

import os
import shutil

import pytest

from benchmarks import dcmtk


def tool(program: str, package: str) -> str:
    """Return the path of a program of a Debian package, or skip the test."""
    found = dcmtk.find(program) if package == "dcmtk" else shutil.which(program)
    if found is None:
        message = f"{program} is not installed (Debian: {package})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
