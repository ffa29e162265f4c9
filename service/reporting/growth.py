"""Place a bone age against the chronological age, with the reference band behind it: a plot as a list of marks.

The marks are plain data in units of the caller's canvas (x to the right, y down), so that the picture and the page draw the same
plot. The band is that of the Brush Foundation for Greulich-Pyle bone ages (`models.standards.greulich_pyle`), the only
reference of bone age by chronological age that Carpus has; the plot says so, since methods by stages have none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from models.reading import MethodResult, Reading
from models.regions import Sex
from models.standards import greulich_pyle
from service.reporting import result_tables, wording
from service.reporting.codes import Language
from service.reporting.history import Prior

LAST_YEAR: Final = 19
Role = Literal["grid", "axis", "text", "faint", "wide", "narrow", "mean", "point", "other", "prior", "age"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    role: Role
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Area:
    """A filled polygon."""

    points: tuple[tuple[float, float], ...]
    role: Role


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle, or a ring."""

    x: float
    y: float
    radius: float
    role: Role
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text with its baseline at y."""

    x: float
    y: float
    text: str
    size: float
    role: Role
    anchor: Literal["left", "middle", "right"] = "left"


Mark = Line | Area | Dot | Label


_WORDS: Final = {
    "x": ("Chronological age, years", "生活年龄（岁）"),
    "y": ("Bone age, years", "骨龄（岁）"),
    "band": (
        "Band: +/-1 and +/-2 SD of Greulich-Pyle bone ages\n(Brush Foundation, {curve}); other methods have none",
        "色带：Greulich-Pyle骨龄均值加减1、2个标准差\n（Brush基金会，{curve}）；其他方法无参考标准",
    ),
    "no band": ("No reference band: the sex is unknown", "性别未知，不绘参考带"),
    "no age": ("The chronological age is unknown", "生活年龄未知"),
    "age": ("Upright line: chronological age", "竖线：生活年龄"),
    "other": ("rings: the other methods", "空心圈：其他方法"),
    "prior": ("small dots: earlier films", "小圆点：既往影像"),
}


def plot(
    reading: Reading, language: Language, width: float, height: float, *, size: float, priors: Sequence[Prior] = ()
) -> list[Mark]:
    """Return the marks of the plot on a canvas of this size, back to front.

    Parameters
    ----------
    size
        Height of the text.
    priors
        Earlier bone ages of the patient; those that may be compared are joined by a line to the one of their method.
    """
    area = _Area(4.2 * size, 1.4 * size, width - 0.8 * size, height - 6.6 * size)
    marks: list[Mark] = []
    if reading.sex is not None:
        marks += _band(area, reading.sex)
    marks += _axes(area, language, size)
    marks += _positions(area, reading, language, size, priors)
    marks += _captions(area, reading, language, size, priors)
    return marks


@dataclass(frozen=True, slots=True)
class _Area:
    """The square of the axes on the canvas, 0 to `LAST_YEAR` both ways."""

    left: float
    top: float
    right: float
    bottom: float

    def at(self, age: float, bone_age: float) -> tuple[float, float]:
        x = self.left + min(max(age, 0.0), LAST_YEAR) / LAST_YEAR * (self.right - self.left)
        y = self.bottom - min(max(bone_age, 0.0), LAST_YEAR) / LAST_YEAR * (self.bottom - self.top)
        return x, y


def _band(area: _Area, sex: Sex) -> Iterator[Mark]:
    spread = [
        (age / 4, deviation / 12)
        for age in range(4 * LAST_YEAR + 1)
        if (deviation := greulich_pyle.brush_sd_months(3.0 * age, sex)) is not None
    ]
    for role, times in (("wide", 2), ("narrow", 1)):
        upper = [area.at(age, age + times * deviation) for age, deviation in spread]
        lower = [area.at(age, age - times * deviation) for age, deviation in spread]
        yield Area((*upper, *reversed(lower)), "wide" if role == "wide" else "narrow")
    yield Line(tuple(area.at(age, age) for age, _ in spread), "mean")


def _axes(area: _Area, language: Language, size: float) -> Iterator[Mark]:
    for year in range(0, LAST_YEAR + 1, 2):
        x, _ = area.at(year, 0)
        _, y = area.at(0, year)
        yield Line(((x, area.top), (x, area.bottom)), "grid", 0.5)
        yield Line(((area.left, y), (area.right, y)), "grid", 0.5)
        yield Label(x, area.bottom + 1.2 * size, str(year), size, "faint", "middle")
        yield Label(area.left - 0.5 * size, y + 0.35 * size, str(year), size, "faint", "right")
    yield Line(((area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)), "axis")
    zh = language == "zh"
    yield Label(area.right, area.bottom + 2.5 * size, _WORDS["x"][zh], size, "text", "right")
    yield Label(area.left - 3.4 * size, area.top - 0.5 * size, _WORDS["y"][zh], size, "text")


def _positions(
    area: _Area, reading: Reading, language: Language, size: float, priors: Sequence[Prior]
) -> Iterator[Mark]:
    """Yield the methods at the chronological age; without one only the height at which the default method lies."""
    methods = [method for method in wording.in_order(reading) if method.bone_age_years is not None]
    default = [method for method in result_tables.headline(reading) if method.bone_age_years is not None] or methods[:1]
    age = reading.chronological_age_years
    if age is None:
        for method in default:
            x, y = area.at(0, _years(method))
            yield Line(((x, y), (area.right, y)), "point", 2.0)
            yield Label(x + 0.5 * size, y - 0.4 * size, _shown(method), 1.15 * size, "point")
        return
    x, _ = area.at(age, 0)
    yield Line(((x, area.top), (x, area.bottom)), "age", 1.0)
    for method in default:
        before = [area.at(*place) for place in _earlier(method, priors)]
        if before:
            yield Line((*before, area.at(age, _years(method))), "prior", 1.5)
        for px, py in before:
            yield Dot(px, py, 0.35 * size, "prior")
    for method in methods:
        if method not in default:
            yield Dot(*area.at(age, _years(method)), 0.42 * size, "other", hollow=True)
    for method in default:
        if method.interval_years is not None:
            yield Line(tuple(area.at(age, limit) for limit in method.interval_years), "point", 2.0)
        px, py = area.at(age, _years(method))
        yield Dot(px, py, 0.5 * size, "point")
        to_the_left = px > (area.left + area.right) / 2
        place = px - 0.9 * size if to_the_left else px + 0.9 * size
        yield Label(place, py + 0.4 * size, _shown(method), 1.15 * size, "point", "right" if to_the_left else "left")


def _earlier(method: MethodResult, priors: Sequence[Prior]) -> list[tuple[float, float]]:
    """Return (chronological age, bone age) of the earlier films that may be compared with a method."""
    return [
        (prior.chronological_age_years, prior.bone_age_years)
        for prior in priors
        if prior.comparable and (prior.method, prior.sex) == (method.name, method.sex)
        if prior.chronological_age_years is not None
    ]


def _captions(
    area: _Area, reading: Reading, language: Language, size: float, priors: Sequence[Prior]
) -> Iterator[Mark]:
    zh = language == "zh"
    if reading.sex is None:
        lines = [_WORDS["no band"][zh]]
    else:
        curve = wording.curve(reading.sex, language)
        lines = _WORDS["band"][zh].format(curve=curve).split("\n")
    if reading.chronological_age_years is None:
        lines.append(_WORDS["no age"][zh])
    else:
        keys = ["age"]
        if sum(method.bone_age_years is not None for method in reading.methods) > 1:
            keys.append("other")
        if any(_earlier(method, priors) for method in result_tables.headline(reading)):
            keys.append("prior")
        lines.append(("；" if zh else "; ").join(_WORDS[key][zh] for key in keys))
    for row, line in enumerate(lines):
        yield Label(area.left - 3.4 * size, area.bottom + (3.9 + 1.25 * row) * size, line, 0.85 * size, "faint")


def _years(method: MethodResult) -> float:
    return method.bone_age_years or 0.0


def _shown(method: MethodResult) -> str:
    return f"{_years(method):.1f}"
