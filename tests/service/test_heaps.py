"""Threads share heaps, and what one film frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

# Threads that live at the same time and allocate blocks too large for Python's own allocator and too small for mmap.
PROGRAM = """
import sys, threading
from service import heaps
if sys.argv[1] == "shared":
    heaps.share_heaps()
meet = threading.Barrier(9)
def work():
    blocks = [bytearray(20_000) for _ in range(50)]
    meet.wait()
    meet.wait()
    del blocks
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
meet.wait()
with open("/proc/self/maps") as maps:
    starts = [(line.split()[0].split("-")[0], line.split()) for line in maps]
# A heap of a thread begins at a multiple of 64 MiB (HEAP_MAX_SIZE of glibc) and has no file.
print(sum(int(start, 16) % (64 << 20) == 0 and len(words) == 5 and words[1] == "rw-p" for start, words in starts))
meet.wait()
heaps.give_back()
"""


def heaps_of(way: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_threads_share_at_most_two_heaps() -> None:
    alone, shared = heaps_of("alone"), heaps_of("shared")
    assert shared <= 2
    assert shared <= alone


FILMS = """
import sys
from service import heaps
if sys.argv[1] == "kept":
    assert heaps.keep_pages()
def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
before = resident_mib()
for _ in range(3):
    film = bytearray(60 << 20)  # larger than what glibc would ever take from a heap by itself
    del film
print(resident_mib() - before)
heaps.give_back()
print(resident_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="pages are kept by glibc's allocator alone")
def test_what_a_film_frees_is_kept_for_the_next_until_it_is_given_back() -> None:
    grown = {}
    for way in ("alone", "kept"):
        run = subprocess.run([sys.executable, "-c", FILMS, way], capture_output=True, text=True, check=True)
        grown[way] = [float(line) for line in run.stdout.split()]
    assert grown["alone"][0] < 10
    assert grown["kept"][0] > 50
    assert grown["kept"][1] < 10
