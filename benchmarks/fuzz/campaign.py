"""Run every target in turn for a time, watch memory and answers, and count."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from benchmarks.fuzz import receiver, seeds
from benchmarks.fuzz.films import Worker
from benchmarks.fuzz.finding import Finding, Late, Tally
from benchmarks.fuzz.mutations import Program, programs
from benchmarks.fuzz.receiver import ECHO_SECONDS, KINDS, Scp
from benchmarks.fuzz.seeds import Seed

ROUND = 40  # cases of one target in a row
WARM_UP = 0.1  # of the time: what is loaded and cached then is no leak
ALLOWED_GROWTH_BYTES = 100 * 1024**2  # what an attack may cost, by the requirement


@dataclass
class Watch:
    """Memory of a process over the cases it has seen."""

    samples: list[tuple[int, int]] = field(default_factory=list)  # cases, bytes

    def add(self, cases: int, resident: int) -> None:
        """Keep one sample."""
        self.samples.append((cases, resident))

    def figures(self, warm: int) -> dict[str, float]:
        """Return start, end and peak (MiB) from the first sample after `warm` cases, and the slope (KiB per 1000 cases)."""
        kept = [sample for sample in self.samples if sample[0] >= warm] or self.samples
        x = [cases for cases, _ in kept]
        y = [resident for _, resident in kept]
        middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
        spread = sum((a - middle_x) ** 2 for a in x)
        slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
        return {
            "start_mib": round(y[0] / 1024**2, 1),
            "end_mib": round(y[-1] / 1024**2, 1),
            "peak_mib": round(max(y) / 1024**2, 1),
            "kib_per_1000_cases": round(1000 * slope / 1024, 1),
        }


def campaign(
    seconds: float, *, folder: Path | None = None, seed: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fuzz for so long; return the figures as they go into the results.

    Parameters
    ----------
    folder
        DICOM files to begin with, beside the phantoms.
    seed
        The same seed draws the same programs; how many of them fit into the time depends on the machine.
    """
    known = [*seeds.phantoms(), *(seeds.files(folder) if folder else ())]
    tallies = {name: Tally() for name in (*KINDS, "film")}
    watches = {"carpus scp": Watch(), "film worker": Watch()}
    echoes: list[float] = []
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - the disk's speed is not what is measured
    with tempfile.TemporaryDirectory(dir=memory) as place, Scp(Path(place)) as scp, Worker() as worker:
        descriptors = scp.descriptors_and_threads()
        begun = time.monotonic()
        said = begun
        number = 0
        while time.monotonic() - begun < seconds:
            for name, tally in tallies.items():
                number += 1
                sender = worker.run if name == "film" else _to(scp, name)
                _round(sender, known, tally, seed * 1_000_003 + number, until=begun + seconds)
            try:
                echoes.append(receiver.check(scp))
            except Finding as finding:
                tallies["association"].found(finding)
                if not scp.alive():
                    break
            sent = sum(tally.cases for name, tally in tallies.items() if name != "film")
            watches["carpus scp"].add(sent, scp.resident_bytes())
            watches["film worker"].add(tallies["film"].cases, worker.resident_bytes())
            scp.empty_quarantine()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                found = sum(len(tally.findings) for tally in tallies.values())
                say(f"{said - begun:.0f} s, {sum(t.cases for t in tallies.values())} cases, {found} findings")
        lasted = time.monotonic() - begun
        time.sleep(6)  # connections cut off in the middle have their time limit
        alive, left = scp.alive(), scp.descriptors_and_threads() if scp.alive() else (0, 0)
        unexpected = dict(scp.unexpected())
    return _figures(tallies, watches, echoes, lasted) | {
        "seeds": len(known),
        "alive": alive,
        "descriptors_and_threads": {"before": descriptors, "after": left},
        "unexpected_errors": unexpected,
    }


def _to(scp: Scp, kind: str) -> Callable[[Seed, Program], str]:
    return lambda seed, program: receiver.run(scp, kind, seed, program)


def _round(
    sender: Callable[[Seed, Program], str], known: Sequence[Seed], tally: Tally, number: int, until: float
) -> None:
    """Draw programs and send what they make of the seeds; findings are kept and do not stop the round.

    What was answered late is sent again when the round is over; late again it is a finding.
    """
    late: list[tuple[Seed, Program]] = []

    @seeded(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(range(len(known))), programs)
    def one(index: int, program: Program) -> None:
        if tally.cases and time.monotonic() > until:  # one case of every target, however slow the machine
            return
        tally.cases += 1
        try:
            tally.outcomes[sender(known[index], program)] += 1
        except Late:
            tally.late += 1
            late.append((known[index], program))
        except Finding as finding:
            tally.outcomes["finding"] += 1
            tally.found(finding)

    started = time.monotonic()
    one()
    tally.seconds += time.monotonic() - started
    for seed, program in late:
        try:
            tally.outcomes[sender(seed, program)] += 1
        except Finding as finding:
            tally.late_again += isinstance(finding, Late)
            tally.outcomes["finding"] += 1
            tally.found(finding)


def _figures(
    tallies: dict[str, Tally], watches: dict[str, Watch], echoes: list[float], lasted: float
) -> dict[str, Any]:
    sent = sum(tally.cases for name, tally in tallies.items() if name != "film")
    memory = {
        "carpus scp": watches["carpus scp"].figures(int(sent * WARM_UP)),
        "film worker": watches["film worker"].figures(int(tallies["film"].cases * WARM_UP)),
    }
    return {
        "seconds": round(lasted, 1),
        "cases": sum(tally.cases for tally in tallies.values()),
        "targets": {
            name: {
                "cases": tally.cases,
                "cases_per_second": round(tally.cases / tally.seconds, 1) if tally.seconds else 0.0,
                "outcomes": dict(tally.outcomes.most_common(12)),
                "late": tally.late,
                "late_again": tally.late_again,
                "findings": tally.findings,
            }
            for name, tally in tallies.items()
        },
        "memory": memory,
        "echo_seconds": {
            "n": len(echoes),
            "median": round(sorted(echoes)[len(echoes) // 2], 4) if echoes else None,
            "maximum": round(max(echoes), 4) if echoes else None,
            "limit": ECHO_SECONDS,
        },
    }


def findings(result: dict[str, Any]) -> list[str]:
    """Return everything in the figures of a campaign that should not be there."""
    found = [
        f"{name}: {signature}, e.g. {cases[0]}"
        for name, target in result["targets"].items()
        for signature, cases in target["findings"].items()
    ]
    found += [f"carpus scp logged {text} ({count} times)" for text, count in result["unexpected_errors"].items()]
    if not result["alive"]:
        found.append("carpus scp died")
    (files, threads), (files_left, threads_left) = result["descriptors_and_threads"].values()
    if files_left > files + 8 or threads_left > threads + 4:
        found.append(f"descriptors {files} -> {files_left}, threads {threads} -> {threads_left}")
    for name, memory in result["memory"].items():
        if memory["peak_mib"] - memory["start_mib"] > ALLOWED_GROWTH_BYTES / 1024**2:
            found.append(f"{name} grew from {memory['start_mib']} to {memory['peak_mib']} MiB")
    return found
