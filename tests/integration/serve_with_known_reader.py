"""`carpus serve` whose inference worker is `known_reader_worker`; with `--text-kept` its intake leaves the pixels as they are, with
`--short` the known Reading is a short one and its results are those of `known_results_worker`.

`python -m tests.integration.serve_with_known_reader FILE [--text-kept] [--short]`
"""

import sys
from pathlib import Path

from service.commands import opened, serve


def main() -> None:
    config = Path(sys.argv[1])
    stubs = {"worker inference": "tests.integration.known_reader_worker"}
    if "--text-kept" in sys.argv[2:]:
        stubs["intake"] = "tests.integration.text_keeping_intake"
    if "--short" in sys.argv[2:]:
        stubs["worker delivery"] = "tests.integration.known_results_worker"
    settings, jobs = opened(config, "supervisor")
    children = serve.children_of(settings, config, jobs)
    for child in children:
        if child.name in stubs:
            child.command = [sys.executable, "-m", stubs[child.name], "--config", str(config)]
        if child.name == "worker inference" and "--short" in sys.argv[2:]:
            child.command.append("--short")
    serve.supervise(settings, jobs, children)


if __name__ == "__main__":
    main()
