"""`carpus calibrate`: fit a bundle to the films of one hospital, and keep who approved it."""

import json
import os
from pathlib import Path

import click

from service.errors import InvalidConfiguration


@click.command()
@click.option(
    "--site",
    "table",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="films.csv of the hospital's own films, or their folder.",
)
@click.option("--name", help="Of the site, as reports show it; needed with --out.")
@click.option("--bundle", default="default", show_default=True, help="What to calibrate.")
@click.option(
    "--readings",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Use these readings and read nothing.",
)
@click.option("--method", "chosen", multiple=True, help="Only this method; may be repeated. Left out: all that answer.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures before and after as JSON."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The site bundle to write (.json); needs --name and --signed-by.",
)
@click.option("--signed-by", help="Who approves the calibration; a name for reports, not an electronic signature.")
@click.option("--note", default="", help="On what grounds.")
def calibrate(
    table: Path,
    name: str | None,
    bundle: str,
    readings: Path | None,
    chosen: tuple[str, ...],
    report: Path | None,
    out: Path | None,
    signed_by: str | None,
    note: str,
) -> None:
    """Fit a straight line per method and sex from the bundle's bone age to the hospital's, and say what it gains.

    Before and after are measured on films that the line was not fitted to (five folds by patient). With --out, --name and
    --signed-by the calibration becomes a site bundle, which `carpus read --bundle` and the setting `bundle` take.
    """
    from models import registry, site
    from models.refusal import Refusal
    from models.weights import WeightsRefused

    if out is not None and not (signed_by and name):
        raise click.UsageError("--out writes a bundle that reports will name: it needs --name and --signed-by")
    try:
        result = site.calibrate(table, bundle, readings=readings, methods=chosen)
        if report is not None:
            report.write_text(json.dumps(result.figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _show(result.figures)
        if out is not None and name and signed_by:
            site.write(out, result, name=name, signed_by=signed_by, note=note)
            click.echo(f"site bundle: {out} (carpus read FILM --bundle {os.fspath(out)})")
    except (registry.BundleRefused, WeightsRefused) as error:
        raise InvalidConfiguration(
            str(error), code="bundle-refused", next_action="`carpus models` lists and verifies the bundles"
        ) from error
    except Refusal as error:
        raise InvalidConfiguration(str(error), code="calibration-refused") from error


def _show(figures: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]) -> None:
    for method, groups in figures.items():
        for group, row in groups.items():
            if group == "left_alone":
                for sex, why in row.items():
                    click.echo(f"{method:16} {sex:3} left alone: {why}")
                continue
            before, after, inside = (
                row["before"]["mae_years"],
                row["after"]["mae_years"],
                row["coverage_of_new_intervals"],
            )
            click.echo(
                f"{method:16} {group:3} n = {before['n']:4}  MAE {before['value']:.2f} -> {after['value']:.2f} y "
                f"({after['low']:.2f} to {after['high']:.2f}), 90 % intervals hold {inside['value']:.0%}"
            )
