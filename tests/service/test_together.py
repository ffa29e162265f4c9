"""Items of several threads are written together, and each thread gets the outcome of its own."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from service.queue.together import MOST, Interrupted, Together, _Entry

LONG_S = 30.0


class _WrongError(Exception):
    pass


class _Ended(BaseException):
    """What ends a thread from outside: no Exception."""


class _Desk:
    """Writes numbers; the first write waits until it is let go, so that others gather behind it."""

    def __init__(self, *, refuse: Callable[[Sequence[int]], None] = lambda _: None) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.together: Together[int, str] = Together(self.write, alone=_WrongError)
        self._refuse = refuse

    def write(self, take: Callable[[], Sequence[int]]) -> list[str]:
        items = take()
        self.batches.append(list(items))
        if len(self.batches) == 1:
            self.begun.set()
            assert self.go_on.wait(LONG_S)
        self._refuse(items)
        return [f"row {item}" for item in items]

    def gathered(self, pool: ThreadPoolExecutor, count: int) -> list["Future[str]"]:
        """Write 0, and while that is under way so many others, in order."""
        futures = [pool.submit(self.together, 0)]
        assert self.begun.wait(LONG_S)
        for number in range(1, count + 1):
            futures.append(pool.submit(self.together, number))
            while len(self.together._waiting) < number:
                threading.Event().wait(0.001)
        self.go_on.set()
        return futures


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MOST + 10) as pool:
        yield pool


def test_who_comes_alone_is_written_at_once() -> None:
    together: Together[int, int] = Together(lambda take: [2 * item for item in take()], alone=_WrongError)
    assert [together(number) for number in (1, 2, 3)] == [2, 4, 6]


def test_what_comes_while_a_write_is_under_way_is_written_together_and_each_gets_its_own_result(
    pool: ThreadPoolExecutor,
) -> None:
    desk = _Desk()
    futures = desk.gathered(pool, 5)
    assert [future.result(LONG_S) for future in futures] == [f"row {number}" for number in range(6)]
    assert desk.batches == [[0], [1, 2, 3, 4, 5]]


def test_what_comes_while_a_write_waits_for_its_turn_at_the_database_is_written_with_it(
    pool: ThreadPoolExecutor,
) -> None:
    batches: list[list[int]] = []
    begun, free = threading.Event(), threading.Event()

    def write(take: Callable[[], Sequence[int]]) -> list[str]:
        begun.set()
        assert free.wait(LONG_S)
        batches.append(list(take()))
        return [f"row {item}" for item in batches[-1]]

    together: Together[int, str] = Together(write, alone=_WrongError)
    futures = [pool.submit(together, 0)]
    assert begun.wait(LONG_S)
    futures += [pool.submit(together, number) for number in (1, 2)]
    while len(together._waiting) < 3:
        threading.Event().wait(0.001)
    free.set()
    assert [future.result(LONG_S) for future in futures] == ["row 0", "row 1", "row 2"]
    assert len(batches) == 1


def test_when_no_transaction_begins_everybody_who_waits_for_it_hears_of_it(pool: ThreadPoolExecutor) -> None:
    begun, free = threading.Event(), threading.Event()

    def write(take: Callable[[], Sequence[int]]) -> list[str]:
        begun.set()
        assert free.wait(LONG_S)
        raise OSError("locked")

    together: Together[int, str] = Together(write, alone=_WrongError)
    futures = [pool.submit(together, 0)]
    assert begun.wait(LONG_S)
    futures.append(pool.submit(together, 1))
    while len(together._waiting) < 2:
        threading.Event().wait(0.001)
    free.set()
    assert [repr(future.exception(LONG_S)) for future in futures] == ["OSError('locked')"] * 2


def test_no_more_than_the_most_are_written_at_once(pool: ThreadPoolExecutor) -> None:
    desk = _Desk()
    for future in desk.gathered(pool, MOST + 3):
        future.result(LONG_S)
    assert [len(batch) for batch in desk.batches] == [1, MOST, 3]


def test_an_item_that_is_wrong_fails_alone(pool: ThreadPoolExecutor) -> None:
    def refuse(items: Sequence[int]) -> None:
        if 2 in items:
            raise _WrongError("two")

    desk = _Desk(refuse=refuse)
    futures = desk.gathered(pool, 3)
    outcomes = [repr(future.exception(LONG_S) or future.result()) for future in futures]
    assert outcomes == ["'row 0'", "'row 1'", "_WrongError('two')", "'row 3'"]
    assert desk.batches == [[0], [1, 2, 3], [1], [2], [3]]


def test_when_nothing_can_be_written_everybody_hears_of_it_and_the_next_is_tried_again(
    pool: ThreadPoolExecutor,
) -> None:
    def refuse(items: Sequence[int]) -> None:
        if 1 in items:
            raise OSError("away")

    desk = _Desk(refuse=refuse)
    futures = desk.gathered(pool, 3)
    assert futures[0].result(LONG_S) == "row 0"
    assert all(isinstance(future.exception(LONG_S), OSError) for future in futures[1:])
    assert len(desk.batches) == 2
    assert desk.together(7) == "row 7"


def test_many_threads_write_everything_once() -> None:
    written: list[int] = []

    def write(take: Callable[[], Sequence[int]]) -> list[int]:
        items = take()
        written.extend(items)
        return [-item for item in items]

    together: Together[int, int] = Together(write, alone=_WrongError)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, range(500))) == [-number for number in range(500)]
    assert sorted(written) == list(range(500))


@pytest.mark.parametrize("singly", [False, True], ids=["together", "one by one"])
def test_who_waits_for_a_thread_that_is_ended_from_outside_hears_that_nothing_is_sure(
    pool: ThreadPoolExecutor, singly: bool
) -> None:
    def refuse(items: Sequence[int]) -> None:
        if singly and len(items) > 1:
            raise _WrongError
        if 2 in items or 1 in items[1:]:
            raise _Ended

    desk = _Desk(refuse=refuse)
    futures = desk.gathered(pool, 3)
    assert futures[0].result(LONG_S) == "row 0"
    assert isinstance(futures[1].exception(LONG_S), _Ended)  # the thread itself
    assert all(isinstance(future.exception(LONG_S), Interrupted) for future in futures[2:])
    assert desk.together(7) == "row 7"


def test_a_thread_ended_while_it_waits_is_waited_for_by_nobody(pool: ThreadPoolExecutor) -> None:
    """Thread 1 is first in line when it is ended; 2 leads in its place, and what 1 brought is not written."""
    desk = _Desk()
    ready, ended = threading.Event(), threading.Event()

    class Cut(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            ready.set()
            ended.wait(LONG_S)
            raise _Ended

    first = pool.submit(desk.together, 0)
    assert desk.begun.wait(LONG_S)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("service.queue.together._Entry", lambda item: _Entry(item, done=Cut()))
        cut = pool.submit(desk.together, 1)
        assert ready.wait(LONG_S)
    second = pool.submit(desk.together, 2)
    while len(desk.together._waiting) < 2:
        threading.Event().wait(0.001)
    desk.go_on.set()
    assert first.result(LONG_S) == "row 0"
    ended.set()
    assert isinstance(cut.exception(LONG_S), _Ended)
    assert second.result(LONG_S) == "row 2"
    assert desk.batches == [[0], [2]]
    assert desk.together(7) == "row 7"
