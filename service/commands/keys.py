"""Show and renew the keys that seal the way back to identities."""

from pathlib import Path

import click

from service.commands import audited, config_option, opened


@click.group()
def keys() -> None:
    """Keys of the pseudonyms and of the vault."""


@keys.command("list")
@config_option
def list_(config: Path | None) -> None:
    """Name the keys and say what they hold; no key is printed."""
    from service import settings
    from service.trust.keys import name_of, source_of
    from service.trust.pseudonyms import Pseudonyms
    from service.trust.vault import Vault

    loaded = settings.load(config)
    source = source_of(loaded)
    held = source.read()
    census = Vault.of(loaded, Pseudonyms(held)).census()
    click.echo(f"keys from {source.place}")
    click.echo(f"{name_of(held.pseudonym)}  pseudonyms (never changes)")
    for index, key in enumerate(held.seals):
        role = "seals and opens" if index == 0 else "opens"
        click.echo(f"{name_of(key)}  {role}: {census.patients.get(index, 0)} patients")
    click.echo(f"vault: {census.originals} originals, {census.headers} headers")
    if census.lost:
        click.echo(f"{census.lost} patients cannot be opened by any of these keys", err=True)
        raise SystemExit(1)


@keys.command()
@click.option("--print", "print_only", is_flag=True, help="Print the new keys instead of storing them: for a KMS.")
@config_option
def rotate(print_only: bool, config: Path | None) -> None:
    """Add a new sealing key, which seals from now on; old ones still open. Running processes need no restart."""
    from service.auditing.messages import Event
    from service.trust.keys import name_of, source_of

    loaded, jobs = opened(config, "carpus keys")
    source = source_of(loaded)
    fresh = source.read().rotated()
    if print_only:
        audited(loaded, jobs, Event.CONFIGURED, "sealing keys printed with a new one for a KMS")
        click.echo(fresh.to_json())
        return
    source.replace(fresh)
    audited(loaded, jobs, Event.CONFIGURED, f"sealing key {name_of(fresh.seals[0])} seals from now on")
    click.echo(f"{name_of(fresh.seals[0])} seals from now on; {len(fresh.seals) - 1} older keys still open")


@keys.command()
@click.option("--drop-old", is_flag=True, help="Then remove the older sealing keys for good.")
@config_option
def rewrap(drop_old: bool, config: Path | None) -> None:
    """Seal the data key of every patient anew under the newest sealing key."""
    from service.auditing.messages import Event
    from service.errors import Permanent
    from service.trust.keys import source_of
    from service.trust.pseudonyms import Pseudonyms
    from service.trust.vault import Vault

    loaded, jobs = opened(config, "carpus keys")
    source = source_of(loaded)
    held = source.read()
    vault = Vault.of(loaded, Pseudonyms(held))
    sealed = vault.rewrap()
    audited(
        loaded, jobs, Event.CONFIGURED, f"{sealed} patients sealed anew" + (", older keys to go" if drop_old else "")
    )
    click.echo(f"{sealed} patients sealed anew")
    if not drop_old:
        return
    census = vault.census()
    if census.lost or set(census.patients) - {0}:
        raise Permanent(
            "some patients are still under an older key", code="keys-in-use", next_action="carpus keys list"
        )
    source.replace(held.newest_only())
    click.echo(f"{len(held.seals) - 1} older keys removed")
