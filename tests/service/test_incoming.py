"""The data set of a C-STORE, cut by the network and by the sender in any way, comes together or is refused; never anything between."""

import random
import struct

import pytest

from service.receiving import memory
from service.receiving.c_store import StoreRequest
from service.receiving.digests import digest
from service.receiving.incoming import AT_ONCE, Incoming, Malformed
from service.receiving.memory import FIRST_BYTES, KEPT, KEPT_BYTES, Lender, Pages
from tests.raw_peer import p_data, pdu

HEAD = b"preamble and file meta information"
RELEASE = pdu(5, bytes(4))


def incoming(
    *, maximum_pdu_bytes: int = 200_000, maximum_bytes: int = 64 * 1024**2, pages: Pages | None = None
) -> Incoming:
    request = StoreRequest(1, "1.2", "1.2.3")
    limits = {"maximum_pdu_bytes": maximum_pdu_bytes, "maximum_bytes": maximum_bytes}
    return Incoming(request, 3, pages or Pages(), HEAD, **limits)


def feed(taken: Incoming, stream: bytes, sizes: list[int]) -> int:
    """Give the stream in pieces of these sizes, over and over, until the data set is complete; return what was given."""
    given, turn = 0, 0
    while given < len(stream) and not taken.complete and not taken.other:
        room = taken.room()
        piece = stream[given : given + min(sizes[turn % len(sizes)], sum(map(len, room)))]
        left = piece
        for part in room:
            part[: min(len(left), len(part))] = left[: len(part)]
            left = left[len(part) :]
        taken.received(len(piece))
        given, turn = given + len(piece), turn + 1
    return given


def fragments(data: bytes, sizes: list[int], *, in_one_pdu: int = 1) -> bytes:
    """Send the data in fragments of these sizes, so many of them in each P-DATA-TF."""
    made, at, turn = [], 0, 0
    while at < len(data) or not made:
        size = sizes[turn % len(sizes)]
        made.append(p_data(3, data[at : at + size], command=False, last=at + size >= len(data))[6:])
        at, turn = at + size, turn + 1
    return b"".join(pdu(4, b"".join(made[at : at + in_one_pdu])) for at in range(0, len(made), in_one_pdu))


@pytest.mark.parametrize("cut", range(1, 40))
def test_wherever_the_network_cuts_the_data_set_is_the_same(cut: int) -> None:
    data = random.Random(cut).randbytes(100)
    for sizes, in_one_pdu in (([1], 1), ([7], 3), ([40, 1, 0, 13], 2), ([1000], 1)):
        stream = fragments(data, sizes, in_one_pdu=in_one_pdu)
        for pieces in ([cut], [cut, 1000], [1, cut]):
            taken = incoming()
            assert feed(taken, stream + RELEASE, pieces) >= len(stream)
            assert taken.complete
            assert bytes(taken.file) == HEAD + data
            assert RELEASE.startswith(bytes(taken.rest))  # what follows is nobody's data


@pytest.mark.parametrize("cut", [*range(1, 20), *range(2990, 3030), 6023, 6024, 6036, 70_000])
@pytest.mark.parametrize(
    "odd", [b"", pdu(4, p_data(3, b"ab", command=False, last=False)[6:] * 2)], ids=["same", "odd one"]
)
def test_pdus_of_one_length_are_read_to_where_their_data_belongs_wherever_they_are_cut(cut: int, odd: bytes) -> None:
    data = random.Random(cut).randbytes(30_000)
    before, behind = fragments(data[:12_000] + b"\0", [3000])[:-13], fragments(data[12_000:], [3000])
    taken = incoming()
    feed(taken, before + odd + behind + RELEASE, [20_000, cut] if cut > 3000 else [cut])
    assert taken.complete
    assert bytes(taken.file) == HEAD + data[:12_000] + b"abab" * bool(odd) + data[12_000:]
    assert taken.digest == digest(taken.file[len(HEAD) :])


def test_what_is_foreseen_costs_no_copy() -> None:
    taken = incoming()
    feed(taken, fragments(bytes(20_000), [5000])[: 2 * 12 + 5000], [AT_ONCE])  # a PDU, and the headers of the next
    room = taken.room()
    assert [len(part) for part in room[:3]] == [5000, 12, 5000]
    room[0][:3], room[2][:3] = b"abc", b"def"
    assert bytes(taken.pages.view[len(HEAD) + 5000 : len(HEAD) + 10_003]) == b"abc" + bytes(4997) + b"def"


@pytest.mark.parametrize("seed", range(20))
def test_a_film_in_any_fragments_is_the_same(seed: int) -> None:
    drawn = random.Random(seed)
    data = drawn.randbytes(drawn.choice([200_000, 1_500_000]))
    sizes = [drawn.choice([1, 100, 4_096, 16_378, 131_060]) for _ in range(5)] + [50_000]
    stream = fragments(data, sizes)
    taken = incoming()
    feed(taken, stream, [drawn.choice([1, 6, 1_000, 65_536, 1_000_000]) for _ in range(50)] + [300_000])
    assert taken.complete
    assert bytes(taken.file) == HEAD + data
    assert taken.digest == digest(data)


def test_a_film_larger_than_the_first_pages_moves_into_larger_ones() -> None:
    data = random.Random(0).randbytes(FIRST_BYTES + 1_000_000)
    taken = incoming()
    feed(taken, fragments(data, [131_060]), [700_001])
    assert bytes(taken.file) == HEAD + data
    assert len(taken.pages.view) == 2 * FIRST_BYTES


def test_fragments_of_one_byte_need_no_memory_for_their_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FIRST_BYTES", 3 * AT_ONCE)
    data = random.Random(0).randbytes(300_000)
    taken = incoming()
    feed(taken, fragments(data, [1]), [AT_ONCE - 7])  # 12 bytes of headers for each
    assert bytes(taken.file) == HEAD + data
    assert len(taken.pages.view) == 3 * AT_ONCE


@pytest.mark.parametrize(
    ("stream", "event"),
    [
        (pdu(4, b""), "P-DATA-TF without a fragment"),
        (pdu(4, b"\0\0\0"), "fragment does not fit into its PDU"),
        (pdu(4, struct.pack(">IBB", 0xFFFFFFF0, 3, 0)), "fragment does not fit into its PDU"),
        (pdu(4, struct.pack(">IBB", 1, 3, 0)), "fragment does not fit into its PDU"),
        (pdu(4, struct.pack(">IBB", 3, 3, 0)), "fragment does not fit into its PDU"),
        (pdu(4, p_data(3, b"ok", command=False, last=False)[6:] + b"\0"), "fragment does not fit into its PDU"),
        (p_data(5, b"ab", command=False, last=False), "fragment of another message inside a data set"),
        (p_data(3, b"ab", command=True, last=False), "fragment of another message inside a data set"),
        (
            pdu(4, 2 * p_data(3, b"ab", command=False, last=True)[6:]),
            "fragment of another message inside a data set",
        ),
        (pdu(4, b"", length=200_001), "PDU longer than the limit"),
        (fragments(bytes(1001), [100]), "data set longer than the limit"),
    ],
)
@pytest.mark.parametrize("cut", [1, 5, 1000])
@pytest.mark.parametrize("before", [100, 2500])
def test_what_may_not_come_inside_a_data_set_is_named(stream: bytes, event: str, before: int, cut: int) -> None:
    taken = incoming(maximum_bytes=before + 900)
    # One fragment that is not the last.
    feed(taken, fragments(bytes(before), [before])[: -before - 1] + b"\0" + bytes(before), [cut])
    assert not taken.complete
    with pytest.raises(Malformed, match=event):
        feed(taken, stream, [cut])


def test_another_pdu_inside_a_data_set_is_left_as_it_is() -> None:
    taken = incoming()
    given = feed(taken, p_data(3, b"ab", command=False, last=False) + RELEASE, [11])
    assert taken.other
    assert not taken.complete
    assert RELEASE.startswith(bytes(taken.rest))
    assert given > 14


def test_pages_are_lent_again_unless_they_are_many_or_large() -> None:
    lender = Lender()
    first = lender.take()
    lender.give_back(first)
    assert lender.take() is first
    first.reserve(KEPT_BYTES + 1)
    lender.give_back(first)
    others = [lender.take() for _ in range(KEPT + 3)]
    assert first not in others
    for pages in others:
        lender.give_back(pages)
    assert len({id(lender.take()) for _ in range(KEPT + 3)} & set(map(id, others))) == KEPT
