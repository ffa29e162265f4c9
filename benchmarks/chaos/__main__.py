"""Run the faults, judge each run, write the results and the table of docs/reliability.md.

    python -m benchmarks.chaos --films 1000 --seeds 10            # what `make chaos` runs
    python -m benchmarks.chaos --films 6 --faults "kill -9 scp"   # a look

`--json FILE` stores the results, `--keep` beside those that are there. Exit status 1 when anything was lost, doubled or left over.
"""

import argparse
import datetime as dt
import json
import logging
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.chaos import house as houses
from benchmarks.chaos import load
from benchmarks.chaos.faults import BY_NAME, FAULTS, Fault, Scene, Unavailable, prepared
from benchmarks.chaos.pacs import Pacs
from models.engine import git_commit
from service import log

RESULTS = Path(__file__).resolve().parents[1] / "chaos.json"
BEGIN_AT_SHARE = 0.25  # of the load acknowledged, when a fault begins
WAIT_SECONDS = 30.0  # for that share
PATIENCE = (600.0, 4.0)  # seconds until everything is confirmed: fixed, and for each film


def main() -> None:
    """Run what was asked for."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped, also when this is stopped
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    log.configure("CRITICAL", as_json=False)
    faults = [BY_NAME[name] for name in arguments.faults] if arguments.faults else list(FAULTS)
    runs: list[dict[str, Any]] = []
    bad = False
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for fault in faults:
            try:
                run = one(fault, arguments.films, seed, logs=arguments.logs)
            except RuntimeError as error:  # the installation did not start; the other faults are run all the same
                run = {
                    "fault": fault.name,
                    "films": arguments.films,
                    "seed": seed,
                    "skipped": "",
                    "wrong": [str(error)],
                }
            runs.append(run)
            bad = bad or bool(run["wrong"])
            print(json.dumps(run), flush=True)
            if arguments.json:
                write(
                    arguments.json, runs, " ".join(["python -m benchmarks.chaos", *sys.argv[1:]]), keep=arguments.keep
                )
    raise SystemExit(1 if bad else 0)


def one(fault: Fault, film_count: int, seed: int, *, logs: Path | None = None) -> dict[str, Any]:
    """Run one fault once; return what was measured and everything that is wrong. The log of a bad run goes to `logs`."""
    run: dict[str, Any] = {"fault": fault.name, "films": film_count, "seed": seed, "wrong": []}
    with tempfile.TemporaryDirectory(prefix="carpus-chaos-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            machinery = stack.enter_context(prepared(fault.needs, folder, film_count))
        except Unavailable as error:
            return run | {"skipped": str(error)}
        pacs = Pacs(folder / "pacs", host=machinery.get("host", "127.0.0.1"), namespace=machinery.get("namespace"))
        stack.callback(pacs.down)
        house = stack.enter_context(
            houses.opened(
                folder / "carpus",
                pacs,
                environment=machinery.get("environment"),
                data=machinery.get("data"),
                **machinery.get("settings", {}),
            )
        )
        scene = Scene(house, random.Random(seed), stack, machinery)  # noqa: S311 - repeatable
        films = load.films(folder / "films", film_count, f"s{seed}")
        patience = PATIENCE[0] + PATIENCE[1] * film_count
        work = load.Load(films, house.settings.scp_port, seed, give_up_seconds=patience)
        run |= _through(fault, scene, work, films, patience)
        if run["wrong"] and logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(house.log, logs / f"{fault.name.replace(' ', '-')}-{seed}.log")
        return run


def _through(fault: Fault, scene: Scene, work: load.Load, films: list[load.Film], patience: float) -> dict[str, Any]:
    house = scene.house
    started = time.monotonic()
    if fault.first:
        fault.begin(scene)
    work.start()
    if not fault.first:
        end = time.monotonic() + WAIT_SECONDS
        while work.share < BEGIN_AT_SHARE * scene.dice.uniform(0.4, 1.6) and time.monotonic() < end:
            time.sleep(0.02)
        fault.begin(scene)
    time.sleep(fault.seconds)
    end = time.monotonic() + patience
    while house.pacs.met < fault.meets and time.monotonic() < end:
        time.sleep(0.1)
    met = house.pacs.met
    before = _confirmed(house)
    fault.end(scene)
    ended = time.monotonic()
    recovered = None
    while recovered is None and time.monotonic() - ended < patience:
        if _confirmed(house) > before:
            recovered = time.monotonic() - ended
        elif before == len(films):
            recovered = 0.0
        else:
            time.sleep(0.05)
    work.join()
    complete = house.wait_confirmed(films, patience)
    drained = time.monotonic() - ended
    wrong = house.judge(films, set(work.acknowledged))
    if met < fault.meets:
        wrong.insert(0, f"the fault met {met} requests, {fault.meets} were wanted")
    if not complete:
        wrong.insert(0, f"not everything was confirmed within {patience:.0f} s")
    answers = [answer for each in work.answers.values() for answer in each]
    return {
        "acknowledged": len(work.acknowledged),
        "sent_to_us": len(answers),
        "without_answer": sum(not answer for answer in answers),
        "refused": sum(answer not in ("", "Success") for answer in answers),
        "confirmed": _confirmed(house),
        "objects_in_pacs": len(house.pacs.files()),
        "requests_that_met_the_mood": met,
        "accepted_more_than_once": house.pacs.sent_again,
        "recovery_seconds": None if recovered is None else round(recovered, 2),
        "all_confirmed_after_seconds": round(drained, 2),
        "seconds": round(time.monotonic() - started, 1),
        "wrong": wrong[:20],
        "wrong_count": len(wrong),
    }


def _confirmed(house: houses.House) -> int:
    try:
        return house.confirmed()
    except Exception:  # noqa: BLE001 - the database may be what is down
        return 0


def write(path: Path, runs: Sequence[dict[str, Any]], command: str, *, keep: bool) -> None:
    """Store the runs with where they were made; `keep` adds to what another call stored."""
    stored: dict[str, Any] = {"series": []}
    if keep and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
    mine = {
        "command": command,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux",
        "commit": git_commit(),
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "inference": "stub process (known Reading), search for text in the pixels off; results: "
        + ", ".join(houses.KINDS),
        "runs": list(runs),
    }
    stored["series"] = [each for each in stored["series"] if each["command"] != command] + [mine]
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=100, help="films in the load of each run")
    parser.add_argument("--seeds", type=int, default=1, help="how often each fault is run, each time with another seed")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--faults", nargs="*", choices=list(BY_NAME), help="only these")
    parser.add_argument("--json", type=Path, help=f"where the results go, e.g. {RESULTS.name}")
    parser.add_argument("--logs", type=Path, help="folder for the log of each bad run")
    parser.add_argument("--keep", action="store_true", help="add to the results that are there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
