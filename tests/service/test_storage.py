import errno
import fcntl
import mmap
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import pytest

from service import storage
from service.errors import Permanent
from service.storage import BLOCK_BYTES, DIRECT, PIECE_BYTES, DiskFull, NotAFile, Store, Stores


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "identified")


def test_a_written_file_is_complete_and_read_back_by_its_name(store: Store) -> None:
    stored = store.write([b"abc", memoryview(b"def")])
    assert store.read(stored.name) == b"abcdef"
    assert (stored.sha256, stored.byte_count) == (sha256(b"abcdef").hexdigest(), 6)
    assert list(store.names()) == [stored.name]


@pytest.mark.parametrize("begin", [0, 1], ids=["at a page", "beside it"])
@pytest.mark.parametrize("count", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 300 * BLOCK_BYTES, 300 * BLOCK_BYTES + 4095])
def test_a_file_written_past_the_page_cache_has_the_same_bytes(tmp_path: Path, count: int, begin: int) -> None:
    direct = Store(tmp_path / "identified", direct=True)
    data = random.Random(count).randbytes(count)
    with mmap.mmap(-1, count + 2) as memory, memoryview(memory)[begin : begin + count] as view:
        view[:] = data
        stored = direct.write(view)
    assert direct.path(stored.name).read_bytes() == data
    assert (stored.sha256, stored.byte_count) == (sha256(data).hexdigest(), count)


def test_whole_blocks_of_a_film_do_not_pass_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, modes = os.write, []

    def write(descriptor: int, data: memoryview) -> int:
        modes.append((len(data), bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT)))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with mmap.mmap(-1, 10 * BLOCK_BYTES) as memory, memoryview(memory)[: 9 * BLOCK_BYTES + 7] as view:
        Store(tmp_path / "identified", direct=True).write(view)
    # A file system that cannot (tmpfs of older kernels) refuses and gets the same through the cache.
    assert (9 * BLOCK_BYTES, True) in modes or not any(direct for _, direct in modes)
    assert sum(size for size, _ in modes) >= 9 * BLOCK_BYTES + 7


def test_files_are_given_to_the_disk_in_turn_and_in_short_pieces_so_that_a_flush_does_not_wait_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, given = os.write, []

    def write(descriptor: int, data: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT:
            given.append((descriptor, len(data)))
            time.sleep(0.01)  # for others to come in between
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    direct = Store(tmp_path / "identified", direct=True)
    with mmap.mmap(-1, 3 * PIECE_BYTES) as memory, memoryview(memory) as view, ThreadPoolExecutor(3) as pool:
        stored = list(pool.map(lambda _: direct.write(view), range(3)))
    assert all(direct.path(each.name).stat().st_size == 3 * PIECE_BYTES for each in stored)
    if given:  # a file system that refuses direct writes (tmpfs of older kernels) has no such queue
        assert {size for _, size in given} == {PIECE_BYTES}
        assert [len(list(run)) for _, run in groupby(descriptor for descriptor, _ in given)] == [3, 3, 3]


@pytest.mark.parametrize("which", ["none of it", "no such blocks"])
def test_a_disk_that_cannot_be_written_directly_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    real, refused = os.write, 0

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal refused
        if DIRECT and fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT:
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data)

    if which == "none of it":
        monkeypatch.setattr(storage, "DIRECT", 0)
    else:
        monkeypatch.setattr(os, "write", write)
    direct = Store(tmp_path / "identified", direct=True)
    data = random.Random(1).randbytes(10 * BLOCK_BYTES + 7)
    assert direct.read(direct.write(data).name) == data
    assert refused in (0, 1)


@pytest.mark.parametrize("name", [None, "result-7"])
def test_the_file_and_its_folder_are_flushed_before_write_returns(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    shard, stored = store.write(b"x", name=name).name.split("/")
    file = next(entry for entry in flushed if "." in entry)
    assert flushed.index(file) < len(flushed) - 1 - flushed[::-1].index(shard)
    # What may replace another file is flushed before it does; a new name and its bytes are one commit of the journal.
    assert (file == stored) == (name is None)
    assert file.endswith(".part") == (name is not None)


def test_a_name_given_by_the_caller_is_replaced_not_doubled(store: Store) -> None:
    first = store.write(b"1", name="result-7")
    second = store.write(b"2", name="result-7")
    assert first.name == second.name
    assert store.read(second.name) == b"2"


@pytest.mark.parametrize("name", ["../../etc/passwd", "1.2.840/..", "A", "", "a" * 97, "x\x00y"])
def test_an_unsafe_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Permanent, match="cannot name a file"):
        store.write(b"x", name=name)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_by_path_and_kind_and_not_waited_for(store: Store) -> None:
    def planted(kind: str) -> str:
        name = store.write(b"x", name=kind.replace(" ", "-")).name
        store.path(name).unlink()
        return name

    with socket.socket(socket.AF_UNIX) as listener:
        for kind, plant in {
            "a pipe": os.mkfifo,
            "a folder": os.mkdir,
            "a socket": lambda path: listener.bind(str(path)),
            "a device": lambda path: path.symlink_to("/dev/zero"),
        }.items():
            name = planted(kind)
            plant(store.path(name))
            for ask in (store.read, lambda name: store.holds(name, "a" * 64)):
                with pytest.raises(NotAFile) as refused:
                    ask(name)
                assert str(refused.value) == f"{store.path(name)} is {kind} and no file"
                assert refused.value.code == "not-a-file"
    with pytest.raises(FileNotFoundError):
        store.read("ab/gone.dcm")


@pytest.mark.parametrize("name", ["../quarantine/ab.dcm", "/etc/passwd", "ab/../../x.dcm", ".writers"])
def test_a_name_that_leads_out_of_the_store_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Permanent, match="not a name of the identified store"):
        store.path(name)


def test_below_the_reserve_nothing_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", minimum_free_bytes=1 << 60)
    with pytest.raises(DiskFull, match=f"{1 << 60} are kept in reserve"):
        store.write(b"x")
    assert list(store.root.rglob("*.*")) == []


@pytest.mark.parametrize("name", [None, "ab"])
def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No space left"):
        store.write(b"x" * 100, name=name)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_who_writes_finds_the_folders_of_all_names_on_the_disk(store: Store) -> None:
    with store.writing(lambda: None):
        assert len(list(store.root.glob("??"))) == 256
        assert next(store.names(), None) is None
        store.write(b"film")


def test_a_sweep_removes_parts_and_keeps_files(store: Store) -> None:
    kept = store.write(b"x").name
    (store.root / kept[:2] / "0123.part").write_bytes(b"half")
    assert store.sweep(older_than_seconds=3600) == 0
    assert store.sweep() == 1
    assert list(store.names()) == [kept]


def test_only_a_writer_that_is_alone_recovers(store: Store) -> None:
    calls: list[str] = []
    with store.writing(lambda: calls.append("first")), store.writing(lambda: calls.append("second")):
        assert calls == ["first"]
    with store.writing(lambda: calls.append("third")):
        assert calls == ["first", "third"]


def test_stores_are_private_to_their_owner(tmp_path: Path) -> None:
    stores = Stores.open(tmp_path)
    stored = stores.identified.write(b"x")
    assert stores.identified.path(stored.name).stat().st_mode & 0o077 == 0
    assert stores.identified.root.stat().st_mode & 0o077 == 0
