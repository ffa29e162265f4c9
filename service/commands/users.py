"""`carpus users`: who may use the pages."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.commands import audited, config_option, opened

if TYPE_CHECKING:
    from service.trust.accounts import Accounts

_ROLES = ("viewer", "radiologist", "administrator", "service")


def _accounts(config: Path | None, change: str = "") -> "Accounts":
    """Open the table of users; a change is told to the audit trail."""
    from service.auditing.messages import Event
    from service.trust.accounts import Accounts

    settings, jobs = opened(config, "carpus users")
    if change:
        audited(settings, jobs, Event.USER_CHANGED, f"asked for: {change}")
    return Accounts(jobs.engine, jobs.now)


def _password(generate: bool) -> str:
    """Ask for a password, or make one and show it once."""
    import secrets

    if not generate:
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    password = secrets.token_urlsafe(15)
    click.echo(f"password {password} (shown once)")
    return password


@click.group()
def users() -> None:
    """Say who may use the pages: viewer, radiologist, administrator, or a service with a token."""


@users.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), required=True)
@click.option("--observer", default="", help="Name in reports this person corrects, as FAMILY^GIVEN.")
@click.option("--generate", is_flag=True, help="Make a password and print it, instead of asking for one.")
@config_option
def add(name: str, role: str, observer: str, generate: bool, config: Path | None) -> None:
    """Add a user; of a service the token is printed, once."""
    from service.trust.accounts import Role

    password = None if role == "service" else _password(generate)
    token = _accounts(config, f"add {name} as {role}").add(name, Role(role), password=password, observer_name=observer)
    click.echo(f"{name} added as {role}" + (f"; token {token} (shown once)" if token else ""))


@users.command("list")
@config_option
def list_users(config: Path | None) -> None:
    """Print everybody: name, role, state, source, observer name."""
    for user in _accounts(config).list():
        state = "disabled" if user.disabled else "active"
        click.echo(f"{user.name:<24}{user.role:<15}{state:<10}{user.source:<10}{user.observer_name}".rstrip())


@users.command()
@click.argument("name")
@click.option("--generate", is_flag=True, help="Make a password and print it, instead of asking for one.")
@config_option
def passwd(name: str, generate: bool, config: Path | None) -> None:
    """Change a password, or give a service a new token; sessions of this user end."""
    from service.trust.accounts import Role, UnknownUser

    accounts = _accounts(config, f"password of {name}")
    user = accounts.find(name)
    if user is None:
        raise UnknownUser(f"there is no user {name!r}", next_action="`carpus users list` names everybody")
    token = accounts.set_password(name, "" if user.role is Role.SERVICE else _password(generate))
    click.echo(f"token {token} (shown once)" if token else f"password of {name} changed")


@users.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES[:3]), required=True)
@click.option("--observer", help="Name in reports this person corrects, as FAMILY^GIVEN.")
@config_option
def role(name: str, role: str, observer: str | None, config: Path | None) -> None:
    """Give a person another role; sessions of this user end."""
    from service.trust.accounts import Role

    _accounts(config, f"role of {name}: {role}").set_role(name, Role(role), observer)
    click.echo(f"{name} is {role} now")


@users.command()
@click.argument("name")
@config_option
def disable(name: str, config: Path | None) -> None:
    """Lock a user out; sessions and token end at once."""
    _accounts(config, f"disable {name}").set_disabled(name, True)
    click.echo(f"{name} is disabled")


@users.command()
@click.argument("name")
@config_option
def enable(name: str, config: Path | None) -> None:
    """Let a disabled user in again."""
    _accounts(config, f"enable {name}").set_disabled(name, False)
    click.echo(f"{name} is active")
