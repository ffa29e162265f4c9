"""Take out of an A-ASSOCIATE-RQ what nobody here takes, and say so in the A-ASSOCIATE-AC.

Common senders offer every storage class there is, some 128 presentation contexts, and many open an association for each film.
pynetdicom makes objects of every one and checks each UID several times: that costs more of the processor than a film. A context
whose abstract syntax we do not support can have one answer only (PS3.8 9.3.3.2: abstract-syntax-not-supported), which is written
here; the others are pynetdicom's to negotiate. So is everything as soon as the request is not formed as every sender's is.
"""

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

# PS3.8 9.3.2: items of an A-ASSOCIATE-RQ, and their answers in an A-ASSOCIATE-AC (9.3.3).
_ITEMS_AT: Final = 74
_ITEM: Final = struct.Struct(">BxH")
_CONTEXT_OFFERED: Final = 0x20
_CONTEXT_ANSWERED: Final = 0x21
_ABSTRACT_SYNTAX: Final = 0x30
_TRANSFER_SYNTAX: Final = 0x40
_ACCEPTED: Final = 0
_ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
_USUAL_BYTES: Final = 4096  # of a context: 60 transfer syntaxes
_UID: Final = re.compile(rb"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")  # PS3.5 9.1

Items = list[tuple[int, bytes]]  # type and whole item, with its header


@dataclass(frozen=True, slots=True)
class Offer:
    """What is left of a request for an association.

    Parameters
    ----------
    request
        The A-ASSOCIATE-RQ without the presentation contexts that cannot be accepted.
    refused
        Their abstract syntaxes, by the contexts' numbers.
    """

    request: bytes
    refused: Mapping[int, str] = field(default_factory=dict)
    _answers: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, request: bytes, supported: Collection[str]) -> "Offer":
        """Take out of a request the contexts with other abstract syntaxes than these; one context always stays."""
        items = _items(request[_ITEMS_AT:])
        contexts = None if items is None else _contexts(items)
        if items is None or contexts is None:
            return cls(request)
        refused = {number: each for number, each in contexts.items() if each[0] not in supported}
        if len(refused) == len(contexts):  # an association needs one (PS3.8 9.3.2)
            refused = dict(list(refused.items())[1:])
        kept = [item for kind, item in items if kind != _CONTEXT_OFFERED or item[4] not in refused]
        return cls(
            _pdu(request, kept),
            {number: abstract for number, (abstract, _) in refused.items()},
            {number: _refusal(number, transfer) for number, (_, transfer) in refused.items()},
        )

    def answered(self, accepting: bytes) -> bytes:
        """Return an A-ASSOCIATE-AC that answers every context offered: the accepted first, in the order of their numbers."""
        items = _items(accepting[_ITEMS_AT:]) if self._answers else None
        if items is None:
            return accepting
        answers = [item for kind, item in items if kind == _CONTEXT_ANSWERED] + list(self._answers.values())
        answers.sort(key=lambda item: (item[6] != _ACCEPTED, item[4]))
        others = [item for kind, item in items if kind != _CONTEXT_ANSWERED]
        # PS3.8 9.3.3: application context, presentation contexts, user information.
        return _pdu(accepting, [others[0], *answers, *others[1:]])


def _items(data: bytes) -> Items | None:
    """Cut items apart; None where they do not fill their place to the byte."""
    found: Items = []
    at = 0
    while at + 4 <= len(data):
        kind, length = _ITEM.unpack_from(data, at)
        found.append((kind, data[at : at + 4 + length]))
        at += 4 + length
    return found if at == len(data) else None


def _contexts(items: Items) -> dict[int, tuple[str, bytes]] | None:
    """Return abstract syntax and first transfer syntax by number of the context; None where one is unusual."""
    found: dict[int, tuple[str, bytes]] = {}
    for kind, item in items:
        if kind != _CONTEXT_OFFERED:
            continue
        plain = _syntaxes(item[8:]) if 8 < len(item) <= _USUAL_BYTES else None
        if plain is None or item[4] in found or item[4] % 2 == 0:
            return None
        found[item[4]] = plain
    return found or None


@lru_cache(maxsize=1024)  # every association of every sender offers the same
def _syntaxes(data: bytes) -> tuple[str, bytes] | None:
    """Return abstract syntax and first transfer syntax of one context; None where it is unusual."""
    items = _items(data) or []
    kinds = [kind for kind, _ in items]
    if len(items) < 2 or kinds != [_ABSTRACT_SYNTAX] + [_TRANSFER_SYNTAX] * (len(items) - 1):
        return None
    if not all(_UID.fullmatch(uid[4:]) for _, uid in items):
        return None
    return items[0][1][4:].decode(), items[1][1][4:]


def _refusal(number: int, transfer_syntax: bytes) -> bytes:
    """Answer one context; the transfer syntax is there and means nothing (PS3.8 9.3.3.2)."""
    syntax = _ITEM.pack(_TRANSFER_SYNTAX, len(transfer_syntax)) + transfer_syntax
    body = struct.pack(">BxBx", number, _ABSTRACT_SYNTAX_NOT_SUPPORTED) + syntax
    return _ITEM.pack(_CONTEXT_ANSWERED, len(body)) + body


def _pdu(like: bytes, items: list[bytes]) -> bytes:
    """Return a PDU with the same fixed fields and other items."""
    body = like[6:_ITEMS_AT] + b"".join(items)
    return like[:2] + struct.pack(">I", len(body)) + body
