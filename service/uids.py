"""Derive every identifier we create, so that a repeat of the same work sends the same instances.

An identifier is a name-based UUID (RFC 9562, version 5) under the root 2.25 (PS3.5 B.2). Two results share it only when
everything they were derived from is equal; a source instance read again by the same bundle, for the same destination and
revision, therefore never appears twice in a PACS.
"""

import uuid
from typing import Final

# A fixed name space of our own; changing it would give every result ever sent a second identity.
NAMESPACE: Final = uuid.UUID("0d6a6fa5-4be4-5c86-9df9-0fd46b3c2a17")


def derive(*parts: str) -> str:
    """Return the UID that belongs to these parts, in this order.

    Raises
    ------
    ValueError
        When no part is given or one of them is empty: an identifier derived from nothing would be shared by strangers.
    """
    if not parts or not all(parts):
        raise ValueError(
            f"a UID is derived from non-empty parts; {len(parts)} given, {sum(not p for p in parts)} empty"
        )
    # The length goes in front of each part, so that ("ab", "c") and ("a", "bc") differ.
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"


def random() -> str:
    """Return a UID that nothing else has: for a transaction, never for an instance."""
    return f"2.25.{uuid.uuid4().int}"
