"""Simulate a day of many hospitals: how waiting grows with films, workers and the database.

    python -m benchmarks.scale [--seconds-per-film 2.0] [--transactions-per-second N] [--output benchmarks/scale.json]

Films come as in a day clinic (a Poisson stream whose rate follows the hours), a tenth of them in bursts of several. Each costs a number
of transactions of the database, which does so many a second one after the other, and a time of one inference worker. Without the option
that rate is twice the claims a second that `benchmarks.queue` measured for one process on PostgreSQL (a claim and an end are two
transactions), or on SQLite where that alone was measured; several processes reach more on PostgreSQL. `benchmarks.end_to_end` has the
time of a film. What comes out is a simulation, not a measurement.
"""

import argparse
import heapq
import json
import random
from pathlib import Path
from typing import Any, Final

from models import refusal

QUEUE: Final = Path(__file__).with_name("queue.json")
# Share of a day's films in each hour, a day clinic; they sum to one.
HOURS: Final = (
    [0.002] * 6 + [0.01, 0.04, 0.11, 0.125, 0.12, 0.09, 0.06, 0.09, 0.11, 0.1, 0.07, 0.035, 0.012] + [0.0032] * 5
)
TRANSACTIONS: Final = (
    14  # of one film: received, claimed, prepared, published, claimed, read, published, claimed, sent, confirmed ...
)
FILMS_A_DAY: Final = (60, 600, 6_000, 20_000, 60_000, 120_000)
WORKERS: Final = (1, 2, 4, 8, 16)
BURST: Final = 0.1


def main() -> None:
    """Run the simulation and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds-per-film", type=float, default=2.0, help="of one inference worker")
    parser.add_argument("--transactions-per-second", type=float, help="that the database commits; none: as measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    source = "given"
    if arguments.transactions_per_second is None:
        source, arguments.transactions_per_second = measured()
    rows = [
        {"films_a_day": films, "workers": workers, **simulate(films, workers, arguments)}
        for films in FILMS_A_DAY
        for workers in WORKERS
    ]
    result = {
        "bench": "scale",
        "command": (
            f"python -m benchmarks.scale --seconds-per-film {arguments.seconds_per_film:g} "
            f"--transactions-per-second {arguments.transactions_per_second:g}"
        ),
        "kind": "simulation",
        "rate_from": source,
        "database_limit_films_a_day": round(86_400 * arguments.transactions_per_second / TRANSACTIONS),
        "rows": rows,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measured(path: Path = QUEUE) -> tuple[str, float]:
    """Return where the transactions a second come from, and the number."""
    if not path.exists():
        raise SystemExit(f"there is no {path}: run benchmarks.queue --output {path}, or give --transactions-per-second")
    result = json.loads(path.read_text(encoding="utf-8"))
    tables = result["table_ms"]
    name = next(name for name in ("PostgreSQL", "SQLite") if name in tables)
    claims = float(tables[name]["claims_per_second"])
    return f"{claims:g} claims a second of one process on {name} ({result['date']}, {result['machine']})", 2 * claims


def simulate(films: int, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return waiting times in seconds, from the reception of a film to the begin of its reading, and how busy everything is."""
    chance = random.Random(options.seed)  # noqa: S311 - a simulation
    database_free, busy = 0.0, [0.0] * workers  # when the database and each worker are free
    heapq.heapify(busy)
    waits = []
    for at in arrivals(films, chance):
        database_free = max(at, database_free) + TRANSACTIONS / options.transactions_per_second
        begin = max(database_free, heapq.heappop(busy))
        # Readings differ little in length; a few films are far larger.
        heapq.heappush(busy, begin + options.seconds_per_film * chance.lognormvariate(0, 0.3))
        waits.append(begin - at)
    waits.sort()
    return {
        "median_wait_seconds": round(waits[len(waits) // 2], 2),
        "p95_wait_seconds": round(waits[int(0.95 * len(waits))], 2),
        "workers_busy": round(films * options.seconds_per_film / (86_400 * workers), 3),
        "database_busy": round(films * TRANSACTIONS / (86_400 * options.transactions_per_second), 3),
    }


def arrivals(films: int, chance: random.Random) -> list[float]:
    """Return when the films of one day come, in seconds since midnight."""
    times: list[float] = []
    while len(times) < films:
        hour = chance.choices(range(24), HOURS)[0]
        at = 3600 * (hour + chance.random())
        times += [at] * (chance.randint(2, 6) if chance.random() < BURST else 1)
    return sorted(times[:films])


if __name__ == "__main__":
    refusal.command(main)
