"""Throughput of receiving: Carpus, DCMTK's storescp and Orthanc on the same machine, films, clients and disk.

    python -m benchmarks.ingest [--films 200] [--repeats 3] [--apart] [--folder DIR] [--output benchmarks/ingest.json]

Each run starts a fresh server, then so many `storescu` at once, each with its share of the films on one association, and measures
from the first start to the last end. Carpus answers only for what is flushed to the disk and committed; Orthanc flushes each file
(its `SyncStorageArea`, on unless it is turned off), storescp flushes nothing.
Servers are measured in turn, and the repeats interleaved, so that a busy moment of the machine does not fall on one of them. Beside
the rate stands what a film costs of the processors, the server's share and the clients': on few cores the clients take theirs from
the server, and both together say what rate the machine allows. With `--apart` everything is measured twice: also with the server
on the first half of the processors and the clients on the others, as senders elsewhere leave the server its own. Where there is a
C compiler, two rows more show what no receiver can pass with these clients: one that takes the bytes and answers, and one that
also writes and flushes them (`ingest_ceiling.c`). A last row is the disk's: as many writers, each flushing its files, and no network.
"""

import argparse
import json
import mmap
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
from pydicom import Dataset
from pydicom.uid import generate_uid

from benchmarks import dcmtk
from models import phantom, refusal
from models.engine import git_commit
from service.demo.pacs import find_orthanc
from service.demo.run import free_ports
from service.wrap import Patient, wrap

ASSOCIATIONS: Final = (1, 4, 8)
PDU: Final = 131_072
START_SECONDS: Final = 60
Server = Callable[[Path, int], Sequence[str]]
Halves = tuple[set[int], set[int]]  # of the processors: the server's, the clients'


def main() -> None:
    """Run the measurement and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=200, help="of 2136 x 1440 pixels, 16 bit allocated: 6.15 MB each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="scp_processes of Carpus to measure"
    )
    parser.add_argument(
        "--apart", action="store_true", help="measure also with server and clients on processors of their own"
    )
    parser.add_argument(
        "--folder", type=Path, help="on the disk to be measured; without it the folder for temporary files"
    )
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    dcmtk.needed("storescu")  # the clients
    with tempfile.TemporaryDirectory(dir=refusal.folder(arguments.folder)) as folder:
        result = measure(Path(folder), arguments.films, arguments.repeats, arguments.processes, apart=arguments.apart)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


def measure(folder: Path, films: int, repeats: int, processes: Sequence[int], *, apart: bool) -> dict[str, Any]:
    """Return MB/s by server and number of associations, with each repeat, and the ratios to storescp and Orthanc."""
    sent = _films(folder / "films", films)
    servers = _servers(processes, folder)
    load = os.getloadavg()[0]
    words = f"--films {films} --repeats {repeats} --processes {' '.join(map(str, processes))}{' --apart' * apart}"
    result = {
        "bench": "ingest",
        "command": f"python -m benchmarks.ingest {words}",
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, load {load:.1f} at the start",
        "film": f"phantom, {sent[0].stat().st_size / 1e6:.2f} MB, explicit little endian",
        "films": films,
        "repeats": repeats,
        **_compared(servers, folder / "run", sent, repeats, None),
    }
    if apart:
        every = sorted(os.sched_getaffinity(0))
        if len(every) < 2:
            raise SystemExit(f"--apart needs two processors at least; there is {len(every)}")
        halves = set(every[: len(every) // 2]), set(every[len(every) // 2 :])
        result["apart"] = _compared(servers, folder / "run", sent, repeats, halves)
    return result


def _compared(
    servers: Mapping[str, Server], folder: Path, sent: Sequence[Path], repeats: int, halves: Halves | None
) -> dict[str, Any]:
    rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in ASSOCIATIONS} for name in servers}
    costs: dict[str, dict[int, list[dict[str, float]]]] = {name: {n: [] for n in ASSOCIATIONS} for name in servers}
    disk: dict[int, list[float]] = {n: [] for n in ASSOCIATIONS}
    for _ in range(repeats):
        for associations in ASSOCIATIONS:
            for name in random.sample(list(servers), len(servers)):
                seconds, cost = _run(servers[name], folder, sent, associations, halves)
                costs[name][associations].append(cost)
                rates[name][associations].append(round(sum(p.stat().st_size for p in sent) / seconds / 1e6, 1))
            disk[associations].append(round(_written(folder, sent, associations), 1))
    middle = {name: {n: median(values) for n, values in row.items()} for name, row in rates.items()}
    return {
        "mb_per_second": {name: {str(n): values for n, values in row.items()} for name, row in rates.items()},
        "disk_mb_per_second": {str(n): values for n, values in disk.items()},
        "cpu_ms_per_film": {
            name: {
                str(n): {who: round(median(cost[who] for cost in costs[name][n]), 1) for who in ("server", "clients")}
                for n in ASSOCIATIONS
            }
            for name in servers
        },
        "ratio_to": {
            other: {
                name: {str(n): round(middle[name][n] / middle[other][n], 2) for n in ASSOCIATIONS}
                for name in servers
                if name.startswith("Carpus")
            }
            for other in ("storescp", "Orthanc")
            if other in servers
        },
    }


def table(result: Mapping[str, Any], heading: str = "") -> str:
    """Return medians and ranges as a table, or as two of them."""
    rows = [heading] * bool(heading) + [
        f"{'MB/s, median (range)':34}" + "".join(f"{n + ' assoc':>22}" for n in map(str, ASSOCIATIONS))
    ]
    for name, row in result["mb_per_second"].items():
        cells = [f"{median(v):.0f} ({min(v):.0f}-{max(v):.0f})" for v in row.values()]
        rows.append(f"{name:34}" + "".join(f"{cell:>22}" for cell in cells))
    if "disk_mb_per_second" in result:
        cells = [f"{median(v):.0f} ({min(v):.0f}-{max(v):.0f})" for v in result["disk_mb_per_second"].values()]
        rows.append(f"{'the disk alone':34}" + "".join(f"{cell:>22}" for cell in cells))
    rows.append("CPU ms a film, server + clients")
    for name, costs in result["cpu_ms_per_film"].items():
        cells = [f"{cost['server']} + {cost['clients']}" for cost in costs.values()]
        rows.append(f"{name:34}" + "".join(f"{cell:>22}" for cell in cells))
    for other, ratios in result["ratio_to"].items():
        for name, row in ratios.items():
            rows.append(f"{name + ' / ' + other:34}" + "".join(f"{value:>22.2f}" for value in row.values()))
    if "apart" in result:
        rows.append(table(result["apart"], "server and clients on processors of their own"))
    return "\n".join(rows)


def _films(folder: Path, count: int) -> list[Path]:
    """Write films that differ in their UIDs alone."""
    folder.mkdir(parents=True)
    drawn = phantom.draw(1, age_years=10, sex="F", rows=2136, columns=1440)
    ds: Dataset = wrap(drawn.image, Patient("BENCH^1", "BENCH-1", "F"), kind="DX")
    paths = []
    for number in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(None)
        paths.append(folder / f"{number:05d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    os.sync()  # nor must these be anybody's burden
    return paths


def _servers(processes: Sequence[int], folder: Path) -> dict[str, Server]:
    servers: dict[str, Server] = {f"Carpus, {n} processes": _carpus(n) for n in processes}
    if dcmtk.find("storescp"):
        servers["storescp"] = _storescp
    if find_orthanc():
        servers["Orthanc"] = _orthanc
    if compiler := shutil.which("cc"):
        ceiling = folder / "ingest_ceiling"
        source = Path(__file__).with_name("ingest_ceiling.c")
        subprocess.run([compiler, "-O2", "-o", str(ceiling), str(source)], check=True)
        servers["ceiling: reads and answers"] = _ceiling(ceiling, "read")
        servers["ceiling: also writes and flushes"] = _ceiling(ceiling, "keep")
    return servers


def _ceiling(program: Path, mode: str) -> Server:
    def command(folder: Path, port: int) -> Sequence[str]:
        (folder / "data").mkdir()
        return [str(program), str(port), mode, str(folder / "data")]

    return command


def _carpus(processes: int) -> Server:
    def command(folder: Path, port: int) -> Sequence[str]:
        config = folder / "carpus.json"  # JSON is YAML
        settings = {
            "data_directory": str(folder / "data"),
            "scp_port": port,
            "scp_processes": processes,
            "peers": [{"ae_title": "BENCH"}],
            "limits": {"minimum_free_disk_bytes": 0, "maximum_backlog": 1_000_000},
            "log_level": "WARNING",
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        return [sys.executable, "-m", "service", "scp", "--config", str(config)]

    return command


def _storescp(folder: Path, port: int) -> Sequence[str]:
    (folder / "data").mkdir()
    return [
        dcmtk.needed("storescp"),
        "--fork",
        "-aet",
        "CARPUS",
        "-od",
        str(folder / "data"),
        "-pdu",
        str(PDU),
        str(port),
    ]


def _orthanc(folder: Path, port: int) -> Sequence[str]:
    config = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder / "data"),
        "IndexDirectory": str(folder / "data"),
        "DicomAet": "CARPUS",
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "ConcurrentJobs": 2,
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    return [str(find_orthanc()), str(config)]


def _run(
    server: Server, folder: Path, films: Sequence[Path], associations: int, halves: Halves | None
) -> tuple[float, dict[str, float]]:
    """Return the seconds from the first client's start to the last one's end, and the CPU ms a film of either side."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shares = []
    for number in range(associations):
        share = folder / f"share{number}"
        share.mkdir()
        for path in films[number::associations]:
            (share / path.name).hardlink_to(path)
        shares.append(share)
    (port,) = free_ports(1)
    own, others = halves or (None, None)
    with _running(server(folder, port), port, own) as spent:
        words = [
            dcmtk.needed("storescu"),
            "-aet",
            "BENCH",
            "-aec",
            "CARPUS",
            "-pdu",
            str(PDU),
            "+sd",
            "127.0.0.1",
            str(port),
        ]
        before = spent()
        started = time.monotonic()
        clients = [
            subprocess.Popen([*words, str(share)], stdout=subprocess.DEVNULL, preexec_fn=_on(others))
            for share in shares
        ]
        ended = [os.wait4(client.pid, 0) for client in clients]
        seconds = time.monotonic() - started
        cost = {"server": spent() - before, "clients": sum(used.ru_utime + used.ru_stime for *_, used in ended)}
    statuses = [os.waitstatus_to_exitcode(status) for _, status, _ in ended]
    for client, status in zip(clients, statuses, strict=True):
        client.returncode = status
    if any(statuses):
        raise SystemExit(f"storescu ended with {statuses}")
    stored = sum(path.stat().st_size > 6_000_000 for path in (folder / "data").rglob("*") if path.is_file())
    if stored < len(films):
        raise SystemExit(f"{stored} of {len(films)} films are on the disk")
    shutil.rmtree(folder)
    os.sync()  # what one server left to the kernel to write must not be the next one's burden
    return seconds, {who: 1000 * value / len(films) for who, value in cost.items()}


def _written(folder: Path, films: Sequence[Path], writers: int) -> float:
    """Return the MB/s at which so many writers put files like these on the disk, past the page cache and flushed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    size = films[0].stat().st_size // mmap.PAGESIZE * mmap.PAGESIZE  # a direct write is of whole blocks
    with mmap.mmap(-1, size) as memory, ThreadPoolExecutor(writers) as hands:
        memory[:] = films[0].read_bytes()[:size]

        def write(number: int) -> None:
            file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | getattr(os, "O_DIRECT", 0), 0o600)
            os.write(file, memory)
            os.fsync(file)
            os.close(file)

        started = time.monotonic()
        list(hands.map(write, range(len(films))))
        seconds = time.monotonic() - started
    shutil.rmtree(folder)
    return size * len(films) / seconds / 1e6


@contextmanager
def _running(command: Sequence[str], port: int, processors: set[int] | None) -> Iterator[Callable[[], float]]:
    """Run a server; yield what returns the CPU seconds of it and of all its processes, ended ones too.

    It keeps to the processors that are given, to all of them for None.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_on(processors),
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{command[0]} does not listen")
            time.sleep(0.05)
        time.sleep(0.5)
        yield lambda: _cpu_seconds(psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _on(processors: set[int] | None) -> Callable[[], None] | None:
    return None if processors is None else lambda: os.sched_setaffinity(0, processors)


def _cpu_seconds(parent: psutil.Process) -> float:
    while True:
        try:
            every = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
            break
        except psutil.NoSuchProcess:  # a child ended meanwhile: its time is its parent's now
            if not parent.is_running():
                raise
    return float(sum(times.user + times.system + times.children_user + times.children_system for times in every))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    refusal.command(main)
