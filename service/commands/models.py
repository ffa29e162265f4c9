"""`carpus models`: what the bundles of weights are, and whether they are what they say."""

import dataclasses
import json

import click


@click.command()
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(bundle: str | None, *, as_json: bool) -> None:
    """List the bundles of weights, or one by name or path, and verify every byte of them.

    A bundle of an architecture that is not known is refused too. Ends with 1 when a bundle is refused; the others are listed all the same.
    """
    from models import registry
    from models.weights import WeightsRefused
    from service import terminal

    listed, refused = [], False
    for name in [bundle] if bundle else registry.names():
        try:
            description = registry.describe(name)
            registry.check_runnable(description)
        except (registry.BundleRefused, WeightsRefused) as error:
            refused = True
            listed.append({"name": name, "verified": False, "error": str(error)})
            text = f"{name}  REFUSED\n  {error}"
        else:
            values = dataclasses.asdict(description)
            listed.append({**values.pop("scoring"), **values, "verified": True})
            text = terminal.describe_bundle(description)
        if not as_json:
            click.echo(text)
    if as_json:
        click.echo(json.dumps(listed, indent=1, default=str, ensure_ascii=False))
    if refused:
        raise SystemExit(1)
