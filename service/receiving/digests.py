"""Tell data sets apart by a digest: BLAKE3, where SHA-256 would be a third of what receiving a film costs.

A digest names its function, so that what an earlier version kept with SHA-256 is still told apart by that.
"""

import hashlib

from blake3 import blake3

from service.errors import Permanent

Data = bytes | bytearray | memoryview


def digest(data: Data, *, like: str = "blake3:") -> str:
    """Return the digest of a data set, by the function of another digest where one is given.

    Raises
    ------
    Permanent
        When that function is unknown, as one of a later version.
    """
    function = like.partition(":")[0]
    if function == "blake3":
        return f"blake3:{blake3(data).hexdigest()}"
    if function == "sha256":
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    raise Permanent(f"{function!r} is no digest this version knows; it knows blake3 and sha256", code="unknown-digest")


class Running:
    """The digest of a data set that is still coming."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._function = blake3()

    def update(self, data: Data) -> None:
        """Go on with the next bytes."""
        self._function.update(data)

    def digest(self) -> str:
        """Return what `digest` returns for all of it."""
        return f"blake3:{self._function.hexdigest()}"
