"""The `carpus` command: finds the subcommand and turns its errors into one line."""

from importlib import import_module

import click

from service import crashes
from service.errors import CarpusError

# Where each subcommand lives, in the order `carpus --help` shows them; the module of one is loaded only when it is asked for.
COMMANDS = {
    "serve": "service.commands.serve",
    "check": "service.commands.check",
    "jobs": "service.commands.jobs",
    "demo": "service.commands.demo",
    "scp": "service.commands.scp",
    "intake": "service.commands.intake",
    "worker": "service.commands.worker",
    "send": "service.commands.send",
    "echo": "service.commands.send",
    "read": "service.commands.read",
    "report": "service.commands.report",
    "profiles": "service.commands.profiles",
    "amend": "service.commands.amend",
    "models": "service.commands.models",
    "standards": "service.commands.standards",
    "train": "service.commands.train",
    "evaluate": "service.commands.evaluate",
    "calibrate": "service.commands.calibrate",
    "web": "service.commands.web",
    "users": "service.commands.users",
    "tls": "service.commands.tls",
    "phantom": "service.commands.phantom",
    "deidentify": "service.commands.deidentify",
    "keys": "service.commands.keys",
    "audit": "service.commands.audit",
    "hold": "service.commands.hold",
    "forget": "service.commands.forget",
}


class Carpus(click.Group):
    """A group whose subcommands load on demand: `carpus echo` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the subcommands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one subcommand: the function of its own name in its module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.command(cls=Carpus, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="carpus")
@click.pass_context
def cli(context: click.Context) -> None:
    """Bone age for the PACS. For research, not for clinical use."""
    crashes.no_dumps()
    if context.invoked_subcommand in crashes.SERVICES:
        crashes.no_messages()


def main() -> None:
    """Run the command; an expected error is one line and exit status 1, never a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except CarpusError as error:
        click.echo(f"carpus: {error}" + (f"\n  {error.next_action}" if error.next_action else ""), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
