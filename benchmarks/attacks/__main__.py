"""Run every attack, one after the other; see the package."""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.attacks import dicom, pages
from benchmarks.attacks.house import House, house
from models.engine import git_commit

# Name, attack; the order matters for the last one alone, which locks this address out.
ATTACKS: Final[dict[str, Callable[[House], str]]] = {
    "400 MB PDU before association": dicom.huge_pdu,
    "400 MB PDU before association, TLS": dicom.huge_pdu_over_tls,
    "slow-loris, 50 association requests": dicom.slow_loris,
    "slow-loris inside an association": dicom.slow_loris_inside,
    "100 silent peers": dicom.silent_peers,
    "100 silent peers, TLS": dicom.silent_peers_over_tls,
    "wrong certificate": dicom.wrong_certificates,
    "downgrade to TLS 1.1": dicom.downgrade,
    "AE spoofing": dicom.spoofed_titles,
    "deflated data set of 512 MB": dicom.deflated_bomb,
    "path characters in UIDs": dicom.path_uids,
    "SQL and HTML in names": pages.hostile_names,
    "session cookie replayed after log-out": pages.replayed_cookie,
    "form of another site": pages.foreign_form,
    "viewer asks for an administrator's pages": pages.weaker_role,
    "20 MB form": pages.large_body,
    "100 silent visitors": pages.silent_visitors,
    "guessed passwords": pages.guessed_passwords,
}


def run(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the row of each attack; `refused` is False where it succeeded."""
    with house(folder) as home:
        for name, attack in ATTACKS.items():
            refused = True
            with home.watched() as seen:
                try:
                    answer = attack(home)
                except dicom.Succeeded as error:
                    refused, answer = False, str(error)
            yield {
                "attack": name,
                "what": (attack.__doc__ or "").strip(),
                "refused": refused,
                "answer": answer,
                "growth_mib": round(seen.growth_bytes / 1024**2, 1),
                "echoes": len(seen.echo_seconds),
                "echo_ms_maximum": _milliseconds(seen.echo_seconds),
                "tls_echo_ms_maximum": _milliseconds(seen.tls_echo_seconds),
                "unanswered": seen.unanswered,
                "alive": home.scp.alive() and home.web.poll() is None,
            }


def _milliseconds(seconds: list[float]) -> float | None:
    return round(1000 * max(seconds), 1) if seconds else None


def main() -> None:
    """Attack, print a line each and one JSON line at the end; exit status 1 when one succeeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in run(Path(folder)):
            rows.append(row)
            print(f"{'refused' if row['refused'] else 'SUCCEEDED':10}{row['attack']}: {row['answer']}", flush=True)
    result = {
        "bench": "attacks",
        "command": "python -m benchmarks.attacks",
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "load": round(psutil.getloadavg()[0], 1),
        "attacks": rows,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    raise SystemExit(not all(row["refused"] and row["alive"] for row in rows))


if __name__ == "__main__":
    main()
