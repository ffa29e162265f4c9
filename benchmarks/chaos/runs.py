"""One installation, one fault, one load after another: what was measured, and everything that is wrong."""

import gc
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos import house as houses
from benchmarks.chaos import load
from benchmarks.chaos.faults import Fault, Scene, Unavailable, prepared
from benchmarks.chaos.pacs import Pacs

BEGIN_AT_SHARE: Final = 0.25  # of the load acknowledged, when a fault begins
WAIT_SECONDS: Final = 30.0  # for that share
PATIENCE: Final = (600.0, 4.0)  # seconds until everything is confirmed: fixed, and for each film
RECOVERED_LOOK_SECONDS: Final = 0.2  # the confirmer looks once a second


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before a run: an earlier seed may have used the same installation."""

    confirmed: int
    objects: int
    accepted_again: int
    met: int

    @staticmethod
    def of(house: houses.House) -> "Before":
        """Look now."""
        return Before(house.confirmed(), len(house.pacs.files()), house.pacs.sent_again, house.pacs.met)


def one(fault: Fault, film_count: int, seed: int, *, logs: Path | None = None) -> dict[str, Any]:
    """Run one fault once."""
    (run,) = several(fault, film_count, [seed], logs=logs)
    return run


def several(
    fault: Fault, film_count: int, seeds: Sequence[int], *, logs: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the run of each seed, all on one installation, which ends with the first run that shows something wrong.

    Parameters
    ----------
    logs
        Folder for the log of a bad run.
    """
    known = {"fault": fault.name, "films": film_count}
    with tempfile.TemporaryDirectory(prefix="carpus-chaos-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            machinery = stack.enter_context(prepared(fault.needs, folder, film_count * len(seeds)))
        except Unavailable as error:
            yield from ({**known, "seed": seed, "skipped": str(error), "wrong": []} for seed in seeds)
            return
        pacs = Pacs(folder / "pacs", host=machinery.get("host", "127.0.0.1"), namespace=machinery.get("namespace"))
        stack.callback(pacs.down)
        place: dict[str, Any] = {"environment": machinery.get("environment"), "data": machinery.get("data")}
        opened = houses.opened(folder / "carpus", pacs, short=True, **place, **machinery.get("settings", {}))
        house = stack.enter_context(opened)
        for seed in seeds:
            films = load.films(folder / "films", film_count, f"s{seed}", size=load.SMALL)
            gc.collect()
            gc.freeze()  # pynetdicom collects garbage at every 59th connection; what stays needs no look
            with ExitStack() as ended:
                scene = Scene(house, random.Random(seed), ended, machinery)  # noqa: S311 - repeatable
                run = {**known, "seed": seed, **_run(fault, scene, films, seed)}
            if run["wrong"] and logs is not None:
                logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(house.log, logs / f"{fault.name.replace(' ', '-')}-{seed}.log")
            yield run
            if run["wrong"]:
                return  # what is left over would be found again after the next seed
            shutil.rmtree(folder / "films")


def _run(fault: Fault, scene: Scene, films: list[load.Film], seed: int) -> dict[str, Any]:
    house = scene.house
    before, started = Before.of(house), time.monotonic()
    patience = PATIENCE[0] + PATIENCE[1] * len(films)
    work = load.Load(films, house.settings.scp_port, seed, give_up_seconds=patience)
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
    while house.pacs.met - before.met < fault.meets and time.monotonic() < end:
        time.sleep(0.1)
    met = house.pacs.met - before.met
    confirmed = _confirmed(house)
    fault.end(scene)
    ended = time.monotonic()
    recovered = _recovered(house, confirmed, before.confirmed + len(films), patience)
    work.join()
    complete = house.wait_confirmed(films, patience, beside=before.confirmed)
    drained = time.monotonic() - ended
    wrong = house.judge(films, set(work.acknowledged))
    if met < fault.meets:
        wrong.insert(0, f"the fault met {met} requests, {fault.meets} were wanted")
    refused = sum(answer not in ("", "Success") for each in work.answers.values() for answer in each)
    if fault.refuses and not refused:
        wrong.insert(0, "the fault was not met: nothing was refused")
    if not complete:
        wrong.insert(0, f"not everything was confirmed within {patience:.0f} s")
    answers = [answer for each in work.answers.values() for answer in each]
    after = Before.of(house)
    return {
        "acknowledged": len(work.acknowledged),
        "sent_to_us": len(answers),
        "without_answer": sum(not answer for answer in answers),
        "refused": refused,
        "confirmed": after.confirmed - before.confirmed,
        "objects_in_pacs": after.objects - before.objects,
        "requests_that_met_the_mood": met,
        "accepted_more_than_once": after.accepted_again - before.accepted_again,
        "recovery_seconds": None if recovered is None else round(recovered, 2),
        "all_confirmed_after_seconds": round(drained, 2),
        "seconds": round(time.monotonic() - started, 1),
        "wrong": wrong[:20],
        "wrong_count": len(wrong),
    }


def _recovered(house: houses.House, confirmed: int, all_of_them: int, patience: float) -> float | None:
    """Return the seconds until the next film is confirmed; 0 when none is missing, None when none came."""
    ended = time.monotonic()
    while time.monotonic() - ended < patience:
        if confirmed >= all_of_them:
            return 0.0
        if _confirmed(house) > confirmed:
            return time.monotonic() - ended
        time.sleep(RECOVERED_LOOK_SECONDS)
    return None


def _confirmed(house: houses.House) -> int:
    try:
        return house.confirmed()
    except SQLAlchemyError:  # the database may be what is down
        return 0
