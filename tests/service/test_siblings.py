"""Several processes that receive on one port: the limits hold for all together, connections go to who has fewer."""

import os
from contextlib import ExitStack

import pytest

from service.conformance import VERIFICATION
from service.receiving import listener
from service.receiving.places import ECHO_RESERVE, Caller, Places
from service.receiving.siblings import CAPACITY, Siblings, mark
from service.settings import Limits

STORAGE = "1.2.840.10008.5.1.4.1.1.1"


def caller(address: str = "10.0.0.1", title: str = "PACS", wanted: str = STORAGE) -> Caller:
    return Caller("CARPUS", title, address, (wanted,))


def pair(**limits: int) -> tuple[Places, Places]:
    """Return the places of two processes, as they are after the fork."""
    first = Siblings(2)
    second = Siblings(2, index=1)
    second.memory = first.memory
    return Places(Limits(**limits), siblings=first), Places(Limits(**limits), siblings=second)


def test_the_limit_of_associations_holds_for_all_processes_together() -> None:
    one, other = pair(maximum_associations=3)
    with ExitStack() as stack:
        for places in (one, other, one):
            assert stack.enter_context(places.associate(caller()))
        assert not stack.enter_context(other.associate(caller()))
        assert stack.enter_context(other.associate(caller(wanted=VERIFICATION)))  # the reserve for C-ECHO
    with one.associate(caller()) as free:
        assert free, "places that were given back are free again"


def test_the_limits_of_one_address_and_one_peer_hold_for_all_processes_together() -> None:
    one, other = pair(maximum_associations_per_address=1)
    with one.associate(caller(address="10.0.0.1", title="A")):
        with other.associate(caller(address="10.0.0.1", title="B")) as free:
            assert not free
        with other.associate(caller(address="10.0.0.2", title="A"), 1) as free:
            assert not free, "peer A may have one at a time"
        with other.associate(caller(address="10.0.0.2", title="B"), 1) as free:
            assert free


def test_each_process_tells_how_many_connections_it_has() -> None:
    one, other = pair()
    assert one.siblings is not None
    with other.associate(caller()), other.associate(caller()):
        assert (one.load(), one.siblings.least_load()) == (0, 2)
    assert one.siblings.least_load() == 0


def test_what_one_process_tells_another_one_reads() -> None:
    siblings = Siblings(3)
    child = os.fork()
    if child == 0:
        siblings.index = 2
        siblings.tell(7, [(mark("10.0.0.9"), mark("CT"))] * 2)
        os._exit(0)
    os.waitpid(child, 0)
    assert list(siblings.others()) == [(mark("10.0.0.9"), mark("CT"))] * 2
    assert siblings.least_load() == 0  # of process 1, which has said nothing


def test_more_associations_than_fit_are_cut_off_and_not_written_over_the_neighbour() -> None:
    siblings = Siblings(2)
    siblings.tell(5000, [(1, 2)] * 5000)
    neighbour = Siblings(2, index=1)
    neighbour.memory = siblings.memory
    assert len(list(neighbour.others())) == CAPACITY
    assert list(siblings.others()) == []


def test_the_reserve_is_small() -> None:
    assert Limits().maximum_associations > ECHO_RESERVE


def test_a_connection_is_left_to_a_less_busy_process_for_a_moment_and_not_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = pair()
    assert one.siblings is not None
    server = object.__new__(listener.GuardedServer)
    server.places, server._left_since = other, None
    now = 100.0
    monkeypatch.setattr(listener.time, "monotonic", lambda: now)
    assert not server._leaves_it(), "nobody has fewer"
    with other.associate(caller()):
        assert server._leaves_it()
        now += listener.LONGEST_LEFT_SECONDS / 2
        assert server._leaves_it()
        now += 5 * listener.LONGEST_LEFT_SECONDS  # a busy machine: the pause of 2 ms took 100 ms
        assert not server._leaves_it()
        now += 10  # the next connection has its own moment
        assert server._leaves_it()
        now += 2 * listener.STALE_SECONDS  # a sibling took that one; this is another
        assert server._leaves_it()
