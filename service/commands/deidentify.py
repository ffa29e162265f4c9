"""`carpus deidentify`: copy DICOM files without their identity."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from service.commands import config_option


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path), required=False)
@click.argument("target", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write one JSON line per file.")
@click.option("--profile", "profile_path", type=click.Path(exists=True, path_type=Path), help="A profile of your own.")
@click.option("--retain-device-identity", is_flag=True, help="Keep station, serial number and detector.")
@click.option("--explain", is_flag=True, help="Print what the profile does, as Markdown, and stop.")
@config_option
def deidentify(
    source: Path | None,
    target: Path | None,
    report: Path | None,
    profile_path: Path | None,
    retain_device_identity: bool,
    explain: bool,
    config: Path | None,
) -> None:
    """Copy the DICOM files of SOURCE to TARGET without their identity (PS3.15 Annex E).

    The copies are filed by pseudonym. The keys are those of the data directory; with another key the same patient gets
    another pseudonym. Exit status 1 when a file was refused.
    """
    from rich.console import Console
    from rich.progress import track

    from service import settings
    from service.deidentification import confidentiality
    from service.deidentification.folder import copy_files, files_of
    from service.deidentification.statement import statement
    from service.trust.pseudonyms import Pseudonyms
    from service.trust.vault import Vault

    profile = confidentiality.load(profile_path)
    if retain_device_identity:
        profile = profile.with_options("retain-device-identity")
    if explain:
        click.echo(statement(profile), nl=False)
        return
    if source is None or target is None:
        raise click.UsageError("SOURCE and TARGET are needed")
    loaded = settings.load(config)
    pseudonyms = Pseudonyms.of(loaded)
    vault = Vault.of(loaded, pseudonyms)
    files = files_of(source)
    refused = 0
    copies = copy_files(files, source, target, pseudonyms, vault, profile)
    terminal = Console(stderr=True)  # the bar and what is said beside it go where nothing is piped on
    watched = os.isatty(2)
    with _report(report) as say:
        for outcome in track(
            copies, description="De-identifying", total=len(files), disable=not watched, console=terminal
        ):
            say(outcome.to_json())
            if outcome.copy is None:
                refused += 1
                line = f"refused {outcome.file}: {outcome.reason}"
                if watched:  # above the bar, not behind it
                    plain = "".join(c if c.isprintable() else "\ufffd" for c in line)
                    terminal.print(plain, markup=False, highlight=False, soft_wrap=True)
                else:
                    click.echo(line, err=True)
    click.echo(f"{len(files) - refused} of {len(files)} files de-identified, {refused} refused")
    if refused:
        raise SystemExit(1)


@contextmanager
def _report(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what adds a line to the report, at once: a run that is broken off has reported what it did."""
    if path is None:
        yield lambda line: None
        return
    try:
        # It names the source files, and their names may be the patients'.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise click.UsageError(f"the report {path} cannot be written: {os.strerror(error.errno or 0)}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:

        def say(line: str) -> None:
            stream.write(f"{line}\n")
            stream.flush()

        yield say
