"""Say on a terminal what was read and what a bundle consists of."""

from collections.abc import Mapping
from typing import Any

from models.reading import MethodResult, Reading
from models.regions import RUS
from models.registry import Description
from service.reporting import wording


def page(name: str, reading: Reading) -> str:
    """Return a Reading as text for a terminal."""
    facts = reading.image
    side = {"L": "left hand", "R": "right hand"}.get(facts.laterality or "", "side unknown")
    lines = [
        f"{name}: {facts.columns} x {facts.rows} pixels, {side}, {facts.polarity}, turned {round(facts.rotation_degrees)} degrees",
        "accepted" if reading.verdict.accepted else "NOT READ",
        *(f"  {reason.code}: {reason.text}" for reason in reading.verdict.reasons),
    ]
    if reading.verdict.accepted:
        lines += ["", *_methods(reading), "", *_bones(reading)]
        moved = [method for method in reading.methods if method.uncalibrated_years is not None]
        lines += ["", *(f"{method.name}, {method.sex}: {method.reference}" for method in moved)] if moved else []
    total = reading.timings_ms.get("total")
    bundle = f"bundle {reading.bundle.name} {reading.bundle.version}, terms: {reading.bundle.terms}"
    return "\n".join(
        [*lines, "", bundle + (f"; read in {total:.0f} ms" if total else ""), "For research, not for clinical use."]
    )


def describe_bundle(description: Description) -> str:
    """Return what a verified bundle consists of as text for a terminal."""
    lines = [
        f"{description.name} {description.version}  verified",
        f"  sha256          {description.sha256}",
        f"  terms           {description.terms}",
        f"  default method  {description.default_method or 'none'}",
        f"  intended use    {description.intended_use or 'not stated'}",
    ]
    if (calibration := description.scoring.calibration) is not None:
        signed = calibration.sign_off
        lines.append(
            f"  calibrated for  {calibration.site}: {signed.films} films, signed off {signed.date} by {signed.name}"
        )
    for problem, folder, metadata in description.parts:
        lines.append(f"  {problem}: {folder.name} ({metadata.architecture}, version {metadata.version})")
        lines += [f"    {name}  sha256 {digest}" for name, digest in metadata.files.items()]
        lines += [f"    data     {source}" for source in metadata.data]
        lines += [f"    metrics  {line}" for line in _figures(metadata.metrics, "")]
    lines += [f"  {problem}: no weights; readings say so" for problem in description.absent]
    return "\n".join(lines)


def _figures(values: Mapping[str, Any], where: str) -> list[str]:
    """Return one line an estimate, with its interval and n, and one for all the plain values beside each other."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    lines = [where + ", ".join(f"{name} {value}" for name, value in plain.items())] if plain else []
    for name, value in values.items():
        if isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value):
            lines.append(f"{where}{name} {value['value']:g} ({value['low']:g} to {value['high']:g}), n = {value['n']}")
        elif isinstance(value, Mapping):
            lines += _figures(value, f"{where}{name}: ")
    return lines


def _methods(reading: Reading) -> list[str]:
    lines = [f"{'method':<18}{'curve':<7}{'bone age':<12}{'90 % interval':<16}{'score':<9}{'SDS':<7}"]
    for method in reading.methods:
        name = method.name + (" *" if method.name == reading.default_method else "")
        score = "" if method.score is None else f"{method.score:.1f}"
        sds = "" if method.sds is None else f"{method.sds:+.2f}"
        lines.append(f"{name:<18}{method.sex:<7}{_age(method):<12}{_interval(method):<16}{score:<9}{sds}".rstrip())
    if any(method.name == reading.default_method for method in reading.methods):
        lines.append("* the bundle's default method")
    lines += [
        f"no age by {method.name}, {method.sex}: {method.reason}" for method in reading.methods if _no_age(method)
    ]
    if any(method.interval_years is None and method.bone_age_years is not None for method in reading.methods):
        lines.append(f"interval {wording.no_interval('en')}: carpus calibrate measures it on films of the hospital")
    agreement = reading.agreement
    if reading.chronological_age_years is not None:
        missing = {method.name: wording.no_position(method, reading) for method in reading.methods}
        lines += [f"no SDS by {name}: {why.code('en').meaning.lower()}" for name, why in missing.items() if why]
    if agreement.spread_years is not None:
        alarm = " - ALARM: the methods disagree" if agreement.alarm else ""
        lines.append(f"the methods lie within {agreement.spread_years:.1f} years{alarm}")
    if reading.sex is None:
        lines.append("sex unknown: both curves are given")
    return lines


def _age(method: MethodResult) -> str:
    if method.bone_age_years is not None:
        return f"{method.bone_age_years:.1f} y"
    return method.qualifier or "none"


def _no_age(method: MethodResult) -> bool:
    return method.bone_age_years is None and method.reason is not None


def _interval(method: MethodResult) -> str:
    if method.interval_years is None:
        return "" if method.bone_age_years is None else wording.no_interval("en")
    return "{:.1f} to {:.1f}".format(*method.interval_years)


def _bones(reading: Reading) -> list[str]:
    """Return one line a bone: stage, letter, certainty, and what RUS-CHN makes of it on the first curve given."""
    parts = next((m.per_bone for m in reading.methods if m.name == "RUS-CHN" and m.per_bone), {})
    lines = [f"{'bone':<9}{'stage':<7}{'TW3':<5}{'sure':<7}{'else':<14}{'score':<8}{'one stage less / more, years'}"]
    for bone in RUS:
        region = reading.region(bone)
        stage = region.stage if region else None
        if stage is None:
            lines.append(f"{bone:<9}{'not found' if region is None else 'not graded'}")
            continue
        other = f"{stage.runner_up} ({100 * (stage.runner_up_probability or 0):.0f} %)" if stage.runner_up else ""
        part = parts.get(bone)
        effect = f"{_signed(part.one_stage_down_years)} / {_signed(part.one_stage_up_years)}" if part else ""
        score = f"{part.score:.1f}" if part else ""
        sure = f"{100 * stage.probability:.0f} %"
        lines.append(f"{bone:<9}{stage.label:<7}{stage.letter:<5}{sure:<7}{other:<14}{score:<8}{effect}".rstrip())
    return lines


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
