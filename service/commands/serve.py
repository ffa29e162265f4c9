"""Run the embedded installation: one command, one data directory."""

from collections.abc import Sequence
from pathlib import Path

import click

from service import installation
from service.commands import config_option, opened
from service.queue.jobs import Jobs
from service.settings import Settings
from service.supervisor import Child, Supervisor, children_of


@click.command()
@config_option
def serve(config: Path | None) -> None:
    """Run the whole service on this machine: receiver, workers, admin page, database and Redis, in one data directory."""
    settings, jobs = opened(config, "supervisor")
    supervise(settings, jobs, children_of(settings, config, jobs))


def supervise(settings: Settings, jobs: Jobs, children: Sequence[Child]) -> None:
    """Run the children until SIGTERM; say on standard output when all of them are ready."""
    scheme = "https" if settings.web.certificate else "http"

    def announce() -> None:
        click.echo(
            f"carpus is ready: {settings.ae_title} at {_place(settings.scp_host, settings.dicom_port)}, "
            f"admin page {scheme}://{_place(settings.web.host, settings.web.port)}/, "
            f"data in {settings.data_directory.resolve()}"
        )

    with installation.locked(settings.data_directory):
        Supervisor(children, on_ready=announce, on_death=lambda name, pid: jobs.release(f"{name} {pid}")).run()


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # RFC 3986 3.2.2: an address of IPv6 in brackets
