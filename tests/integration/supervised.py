"""A real supervisor over trivial processes: `python -m tests.integration.supervised CODE...`, one child per piece of code."""

import sys

import click

from service import log
from service.supervisor import Child, Supervisor


def main() -> None:
    log.configure("INFO")
    children = [
        Child(f"child {number}", [sys.executable, "-c", code], lambda _pid: True)
        for number, code in enumerate(sys.argv[1:])
    ]
    children[0].last = True
    Supervisor(children, on_ready=lambda: click.echo("ready")).run()


if __name__ == "__main__":
    main()
