"""`carpus standards`: the printed tables, and what they say of stages and heights given by hand; no film, no weights, no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from service.errors import InvalidConfiguration

if TYPE_CHECKING:
    from models.standards.height import AdultHeight

SEX = click.Choice(["F", "M"], case_sensitive=False)
RESEARCH = "For research, not for clinical use."


@click.group(invoke_without_command=True)
@click.pass_context
def standards(context: click.Context) -> None:
    """Say where each printed table comes from, how sure it is, and what in it is doubtful or missing; see also the subcommands."""
    if context.invoked_subcommand is not None:
        return
    from models.standards.provenance import provenance

    for one in provenance():
        click.echo(f"{one.name}: {one.title}")
        for label, texts in (
            ("source", one.sources),
            ("confidence", one.confidence),
            ("doubtful", one.doubtful),
            ("missing", one.missing),
        ):
            for text in texts:
                click.echo(f"  {label:11} {text}")


@standards.command()
@click.argument("stages", nargs=-1, required=True)
@click.option("--sex", type=SEX, required=True)
@click.option("--age", type=click.FloatRange(0, 120), help="Chronological age in years.")
def score(stages: tuple[str, ...], sex: str, age: float | None) -> None:
    """Score STAGES read by hand, each BONE=STAGE: RUS-CHN labels (radius=5(2)) or TW3 letters (radius=F), carpal bones by letters.

    TW3 letters follow from RUS-CHN labels, not the other way round. A bone that is missing is named.
    """
    from models.regions import CARPALS, RUS, Sex
    from models.standards import STANDARDS, carpal

    given = _given(stages, (*RUS, *CARPALS))
    girl_or_boy: Sex = "F" if sex == "F" else "M"
    hand = {bone: stage for bone, stage in given.items() if bone in RUS}
    wrist = {bone: stage for bone, stage in given.items() if bone in CARPALS}
    try:
        for standard in STANDARDS if hand or not wrist else ():
            if standard.fine and any(stage.isalpha() for stage in hand.values()):
                click.echo(
                    f"{standard.name:12} not applicable: a letter does not say which of its RUS-CHN stages was seen"
                )
                continue
            result = standard.read(hand, girl_or_boy)
            total = None if result.score is None else standard.bone_age(result.score, girl_or_boy)
            check = None if total is None else total.cross_check_years
            said = result.reason if result.bone_age_years is None else f"{result.bone_age_years:.2f} years"
            notes = [f"polynomial {check:.2f}"] if check is not None else []
            notes += [result.reference] if result.reference else []
            if age is not None and result.bone_age_years is not None:
                notes.append(
                    f"{result.bone_age_years - age:+.2f} years from the age; no deviations are published for it"
                )
            score_text = "" if result.score is None else f"score {result.score:g}: "
            click.echo(f"{standard.name:12} {score_text}{said}" + (f" ({'; '.join(notes)})" if notes else ""))
        if wrist:
            result = carpal.read(wrist, girl_or_boy)
            age_by_jp = carpal.japanese_tw2_age(result.score or 0, girl_or_boy)
            japanese = age_by_jp.reason if age_by_jp.years is None else f"{age_by_jp.years:.2f} years"
            click.echo(f"{'carpal':12} score {result.score:g}: {result.reason}")
            click.echo(f"{'':12} by the Japanese TW2 standard, which is neither TW3 nor TW3-C: {japanese}")
    except ValueError as error:
        raise InvalidConfiguration(str(error), code="bad-stages") from error
    click.echo(RESEARCH)


@standards.command()
@click.option("--sex", type=SEX, required=True)
@click.option("--age", type=click.FloatRange(0, 25), required=True, help="Chronological age in years.")
@click.option("--height", type=click.FloatRange(40, 230), required=True, help="Standing height in cm.")
@click.option("--gp", type=click.FloatRange(0, 20), help="Greulich-Pyle bone age in years: SDS, Bayley-Pinneau.")
@click.option("--tw2", type=click.FloatRange(0, 20), help="TW2 RUS bone age in years: Tanner 1975.")
@click.option("--menarche", type=click.Choice(["before", "after"]), help="Girls of 11 to 15 years, for Tanner 1975.")
def growth(sex: str, age: float, height: float, gp: float | None, tw2: float | None, menarche: str | None) -> None:
    """Place a height among Chinese children, a Greulich-Pyle age by Brush, and predict the adult height."""
    from models.regions import Sex
    from models.standards import greulich_pyle
    from models.standards import height as heights

    girl_or_boy: Sex = "F" if sex == "F" else "M"
    place = heights.height_position(height, age, girl_or_boy)
    if place is None:
        click.echo("height       not applicable: the reference holds 2 to 18 years and three standard deviations")
    else:
        doubts = f" ({'; '.join(place.uncertain)})" if place.uncertain else ""
        click.echo(
            f"height       {place.sds:+.2f} SD, percentile {place.percentile:.0f}, median {place.median_cm:.1f} cm{doubts}"
        )
    if gp is not None:
        months = greulich_pyle.nearest_plate_months(12 * gp, girl_or_boy)
        position = greulich_pyle.position(12 * gp, 12 * age, girl_or_boy)
        said = "the Brush study holds no children of this age"
        if position is not None:
            said = f"{position.sds:+.2f} SD, percentile {position.percentile:.0f}, {position.word} ({greulich_pyle.REFERENCE})"
        click.echo(f"GP bone age  nearest plate {months // 12} y {months % 12} months; {said}")
        _predicted(heights.bayley_pinneau(height, gp, age, girl_or_boy))
    if tw2 is not None:
        before_or_after: heights.Menarche | None = (
            None if menarche is None else "before" if menarche == "before" else "after"
        )
        _predicted(heights.tanner_1975(height, age, tw2, girl_or_boy, before_or_after))
    click.echo(RESEARCH)


def _predicted(found: "AdultHeight") -> None:
    if found.adult_height_cm is None:
        click.echo(f"adult height not applicable by {found.method}: {found.reason}")
        return
    spread = "" if found.residual_sd_cm is None else f", residual SD {found.residual_sd_cm:g} cm"
    notes = f" ({'; '.join(found.notes)})" if found.notes else ""
    click.echo(f"adult height {found.adult_height_cm:.1f} cm by {found.method}{spread}{notes}")


def _given(stages: tuple[str, ...], known: tuple[str, ...]) -> Mapping[str, str]:
    """Read BONE=STAGE; a bone that is unknown or named twice is refused."""
    found: dict[str, str] = {}
    for text in stages:
        bone, sign, stage = text.partition("=")
        if not sign or not stage:
            raise InvalidConfiguration(f"{text!r} is not BONE=STAGE", code="bad-stages")
        if bone not in known:
            raise InvalidConfiguration(f"bone {bone!r} is not one of {', '.join(known)}", code="bad-stages")
        if bone in found:
            raise InvalidConfiguration(f"bone {bone} is given twice: {found[bone]} and {stage}", code="bad-stages")
        found[bone] = stage
    return found
