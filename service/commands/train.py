"""`carpus train`: train one problem's network; the options are those of its script."""

import click

from models.training import PROBLEMS
from service.errors import InvalidConfiguration


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("problem", required=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def train(problem: str | None, options: tuple[str, ...]) -> None:
    """Train PROBLEM: detection, segmentation, grading, grading-from-ages or regression.

    `carpus train PROBLEM --help` lists its options: --architecture, --data, --out, --minutes, --seed and more. A run is
    resumed by the same command. Its options are kept as training.json beside the weights.
    """
    if problem is None or problem in ("-h", "--help"):
        click.echo("Usage: carpus train PROBLEM --data DATA --out FOLDER [OPTIONS]\n")
        for name, (_, source) in PROBLEMS.items():
            click.echo(f"  {name:20} learns from {source}")
        click.echo(
            "\n`carpus train PROBLEM --help` lists the options. docs/training.md walks through a whole training."
        )
        return
    if problem not in PROBLEMS:
        raise click.UsageError(f"problem {problem!r} is not one of {', '.join(PROBLEMS)}")
    from models.refusal import Refusal
    from models.training import train as run

    try:
        run(problem, options)
    except Refusal as error:
        raise InvalidConfiguration(str(error), code="training-refused") from error
