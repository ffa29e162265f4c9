"""Write the parts of the documentation that show stored results of attacks and fuzzing.

`python -m benchmarks.results` calls this; a part stands between two marks that name it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
DOCS: Final = FOLDER.parent / "docs"


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def attacks(result: dict[str, Any]) -> str:
    """Return the table of the attacks."""
    rows = [["attack", "what is done", "answer", "memory, MiB", "C-ECHO of another peer, plain / TLS, ms (n)"]]
    for row in result["attacks"]:
        answer = row["answer"] if row["refused"] else f"**NOT REFUSED**: {row['answer']}"
        echo = f"{row['echo_ms_maximum']} / {row['tls_echo_ms_maximum']} ({row['echoes']})"
        rows.append([row["attack"], row["what"], answer, f"+{row['growth_mib']}", echo])
    refused = sum(row["refused"] for row in result["attacks"])
    growth = max(row["growth_mib"] for row in result["attacks"])
    slowest = max(row[f"{way}echo_ms_maximum"] or 0 for row in result["attacks"] for way in ("", "tls_"))
    missed = sum(row["unanswered"] for row in result["attacks"])
    return "\n".join(
        [
            f"`{result['command']}` · {result['machine']}, load average {result['load']} · {result['date']} · commit {result['commit']}",
            "",
            f"{refused} of {len(result['attacks'])} refused. Memory of receiver and pages grew by at most {growth} MiB (64 MiB are one "
            f"check of an argon2 password); the slowest C-ECHO of a known peer meanwhile took {slowest:.0f} ms, "
            f"{missed} were not answered.",
            "",
            table(rows),
        ]
    )


def fuzz(results: list[dict[str, Any]]) -> str:
    """Return the figures of the fuzzing campaigns, in their order."""
    return "\n\n".join(_campaign(result) for result in results)


def _campaign(result: dict[str, Any]) -> str:
    rows = [["target", "cases", "cases/s", "late", "late again", "findings", "what became of them"]]
    for name, target in result["targets"].items():
        outcomes = ", ".join(f"{text} {count}" for text, count in target["outcomes"].items())
        late = [
            str(target.get(key, "–")) for key in ("late", "late_again")
        ]  # campaigns before it was counted have none
        rows.append(
            [name, str(target["cases"]), str(target["cases_per_second"]), *late, str(len(target["findings"])), outcomes]
        )
    memory = [["process", "start, MiB", "end, MiB", "peak, MiB", "KiB per 1000 cases"]]
    memory += [[name, *(str(value) for value in figures.values())] for name, figures in result["memory"].items()]
    before, after = result["descriptors_and_threads"].values()
    echo = result["echo_seconds"]
    found = [f"- {name}: {text}" for name, target in result["targets"].items() for text in target["findings"]]
    return "\n".join(
        [
            f"`{result['command']}` · {result['machine']}, load average {result['load']} · {result['date']} · "
            f"commit {result['commit']} · {result['seconds']:.0f} s, "
            f"{result['cases']} cases from {result['seeds']} seeds",
            "",
            f"Receiver alive at the end: {'yes' if result['alive'] else 'NO'}. Unexpected errors in its log: "
            f"{sum(result['unexpected_errors'].values())}. Files and threads before {before[0]} and {before[1]}, "
            f"after {after[0]} and {after[1]}. C-ECHO of a known peer between the rounds: "
            f"median {1000 * echo['median']:.0f} ms, maximum {1000 * echo['maximum']:.0f} ms, n = {echo['n']}.",
            "",
            table(rows),
            "",
            table(memory),
            *(["", "Findings:", "", *found] if found else []),
        ]
    )


def soak(result: dict[str, Any]) -> str:
    """Return what the steady load did to every process and to the database."""
    rows = [
        ["process", "MiB after warm-up", "MiB at the end", "growth", "open files", "threads", "cores", "started anew"]
    ]
    for name, each in result["processes"].items():
        spans = ["–".join(map(str, dict.fromkeys(each[what]))) for what in ("files", "threads")]
        memory = [str(each["mib_after_warm_up"]), str(each["mib_at_end"]), f"{each['growth_percent']:+.1f} %"]
        rows.append([name, *memory, *spans, f"{each['cores']:.3f}", str(each["started_anew"])])
    low, middle, high = result["load_average"]
    size, predicted = result["database_bytes"], result["database_bytes_predicted"]
    states = ", ".join(f"{state} {count}" for state, count in sorted(result["states_at_end"].items()))
    return "\n".join(
        [
            f"`{result['command']}` · {result['machine']}, load average {low}–{high}, median {middle} · {result['date']} · "
            f"commit {result['commit']} · {result['inference']}, text {result['text']}, results: {', '.join(result['objects'])}",
            "",
            f"{result['films']} films in {result['seconds']} s ({result['films_a_second']} a second by C-STORE), "
            f"{result['batches_not_taken_at_once']} batches of 20 not taken at once (0xA700, sent again). "
            f"At the last sample ({result['sampled_seconds']:.0f} s): {states}. Database {size / 1e6:.1f} MB, "
            f"{predicted / 1e6:.1f} MB predicted from its first half "
            f"({100 * (size / predicted - 1):+.1f} %), {result['database_bytes_a_film'] / 1e3:.1f} kB a film.",
            "",
            table(rows),
            *(
                ["", f"Wrong ({result['wrong_count']}):", "", *(f"- {text}" for text in result["wrong"])]
                if result["wrong"]
                else []
            ),
        ]
    )


# Mark: page, stored result, how it is shown.
PARTS: Final[Mapping[str, tuple[str, str, Callable[[Any], str]]]] = {
    "attacks": ("security.md", "attacks.json", attacks),
    "fuzz": ("reliability.md", "fuzz.json", fuzz),
    "soak": ("reliability.md", "soak.json", soak),
}


def rendered(name: str, text: str) -> str:
    """Return a page with one part made anew.

    Raises
    ------
    ValueError
        When the page has not both marks of the part.
    """
    begin, end = f"<!-- {name}: generated by python -m benchmarks.results -->", f"<!-- end of {name} -->"
    head, mark, rest = text.partition(begin)
    _, last, tail = rest.partition(end)
    if not mark or not last:
        raise ValueError(f"the page holds no lines {begin} and {end}")
    _, stored, show = PARTS[name]
    result = json.loads((FOLDER / stored).read_text(encoding="utf-8"))
    return f"{head}{begin}\n\n{show(result)}\n\n{end}{tail}"


def write() -> None:
    """Make every part anew."""
    for name, (page, _, _) in PARTS.items():
        path = DOCS / page
        path.write_text(rendered(name, path.read_text(encoding="utf-8")), encoding="utf-8")
