"""`carpus tls`: certificates for a trial, and what a certificate holds."""

from pathlib import Path

import click


@click.group()
def tls() -> None:
    """Make certificates for a trial; show what a certificate holds."""


@tls.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--host", "hosts", multiple=True, help="Host name or address that the certificates are valid for besides."
)
@click.option("--days", default=365, show_default=True, help="How long they are valid.")
def make(folder: Path, names: tuple[str, ...], hosts: tuple[str, ...], days: int) -> None:
    """Make a certificate and key in FOLDER for each of NAMES (AE titles), signed by the authority of that folder.

    The authority is made at the first call. It is meant for trials: its key lies beside it.
    """
    from service.trust import certificates

    for name, made in certificates.make(folder, names, days=days, hosts=hosts).items():
        found = certificates.Certificate.read(made.certificate)
        click.echo(f"{name}: {made.certificate} {made.key} until {found.expires_at:%Y-%m-%d}")
    click.echo(f"authority: {folder / certificates.AUTHORITY}.pem")


@tls.command()
@click.argument("files", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
def show(files: tuple[Path, ...]) -> None:
    """Print the names, the issuer, the last day and the SHA-256 of certificates in PEM."""
    from service.trust.certificates import Certificate

    for file in files:
        found = Certificate.read(file)
        click.echo(
            f"{file}\n  names    {', '.join(found.names) or 'none'}\n  issuer   {found.issuer}\n"
            f"  expires  {found.expires_at:%Y-%m-%d %H:%M} UTC\n  sha256   {found.sha256}"
        )
