"""`carpus serve` whose inference worker is `known_reader_worker`.

`python -m tests.integration.serve_with_known_reader FILE`
"""

import sys
from pathlib import Path

from service.commands import opened, serve


def main() -> None:
    config = Path(sys.argv[1])
    settings, jobs = opened(config, "supervisor")
    children = serve.children_of(settings, config, jobs)
    for child in children:
        if child.name == "worker inference":
            child.command = [sys.executable, "-m", "tests.integration.known_reader_worker", "--config", str(config)]
    serve.supervise(settings, jobs, children)


if __name__ == "__main__":
    main()
