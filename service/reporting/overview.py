"""Draw the overview of a reading: the film with its regions, and beside it every method, the agreement and each stage.

A picture for a glance: the default method large, all methods on one axis of years with their intervals and the chronological
age, then the bones; in a second column the place of the bone age among children of that age, and what to check. Nothing on it
identifies the patient beyond what the film itself shows.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from models import overlay
from models.image import Image
from models.reading import MethodResult, Reading, Reason, Stage
from models.regions import RUS
from service.reporting import codes, growth, wording
from service.reporting.amendment import Amendment
from service.reporting.codes import Language
from service.reporting.history import Prior
from service.reporting.results import DISCLAIMER
from service.reporting.typesetting import CHINESE_FONT, runs, wrap

HEIGHT: Final = 1200
COLUMN_WIDTH: Final = 800  # the first column of the panel, with its margins
PANEL_WIDTH: Final = 1280
REJECTION_WIDTH: Final = 800
MARGIN: Final = 32

Colour = tuple[int, int, int]
GROUND: Final[Colour] = (18, 21, 26)
RULE: Final[Colour] = (58, 64, 74)
INK: Final[Colour] = (240, 242, 245)
FAINT: Final[Colour] = (160, 168, 180)
GOOD: Final[Colour] = (120, 210, 140)
ALARM: Final[Colour] = (255, 120, 105)
AGE_LINE: Final[Colour] = (255, 200, 90)

MARKS: Final[dict[growth.Role, Colour]] = {
    **{
        "grid": (38, 43, 51),
        "axis": FAINT,
        "text": FAINT,
        "faint": FAINT,
        "wide": (33, 48, 66),
        "narrow": (44, 68, 96),
    },
    **{"mean": (96, 140, 190), "point": INK, "other": FAINT, "prior": (150, 200, 240), "age": AGE_LINE},
}

_LABELS: Final = {
    "title": ("Bone age", "骨龄"),
    "position": ("Position of the bone age", "骨龄位置"),
    "notes": ("To check", "核对要点"),
    "by hand": ("reader", "人工"),
    "own": ("AI: {}", "AI：{}"),
    "corrected": ("Corrected by a person, not verified.", "经人工修改，未经医师审核。"),
    "not read": ("Bone age not read", "未判读骨龄"),
    "method": ("Method", "方法"),
    "interval": ("90 % interval", "90%区间"),
    "score": ("Score", "总分"),
    "bone": ("Bone", "骨"),
    "stage": ("RUS-CHN stage (TW3)", "RUS-CHN分期（TW3）"),
    "probability": ("Probability", "概率"),
    "runner-up": ("Runner-up", "次可能"),
    "one stage": ("Stage -1/+1, years", "降/升一期（岁）"),
    "chronological": ("chronological age", "生活年龄"),
    "no age": ("no result", "无结果"),
    "no methods": ("No method gave a bone age.", "没有方法给出骨龄。"),
    "unverified": ("Automatic result, not verified by a radiologist.", "自动判读结果，未经医师审核。"),
    "models": ("Models", "模型"),
    "years": ("years", "岁"),
    "note": ("Note", "提示"),
    "absent": ("not found", "未检出"),
}


def draw(
    image: Image,
    reading: Reading,
    language: Language,
    *,
    priors: Sequence[Prior] = (),
    amendment: Amendment | None = None,
) -> NDArray[np.uint8]:
    """Return the overview of a film that was read, (rows, columns, 3) RGB; see `beside`."""
    return beside(film(image, reading), reading, language, priors=priors, amendment=amendment)


def film(image: Image, reading: Reading) -> NDArray[np.uint8]:
    """Draw the film with its regions, (HEIGHT, columns, 3) RGB; the page shows the same picture."""
    return overlay.draw(image, reading, height=HEIGHT)


def beside(
    drawn: NDArray[np.uint8],
    reading: Reading,
    language: Language,
    *,
    priors: Sequence[Prior] = (),
    amendment: Amendment | None = None,
) -> NDArray[np.uint8]:
    """Return the overview with the film drawn already.

    Parameters
    ----------
    priors
        Earlier bone ages of the patient, for the plot.
    amendment
        What a person corrected; the algorithm's own stages are shown beside theirs.
    """
    panel = _Panel(language)
    panel.result(reading, priors, amendment)
    return np.concatenate([drawn, panel.pixels()], axis=1)


def draw_rejection(image: Image | None, reasons: Sequence[Reason], language: Language) -> NDArray[np.uint8]:
    """Return the picture of a film that was not read: the reason, what to repeat, and the film where there is one."""
    panel = _Panel(language, REJECTION_WIDTH)
    panel.rejection(reasons)
    if image is None:
        return panel.pixels()
    low, high = np.percentile(image.pixels, (0.5, 99.5))
    grey = (255 * np.clip((image.pixels - low) / max(float(high - low), 1e-6), 0, 1)).astype(np.uint8)
    width = min(2 * HEIGHT, max(1, round(image.columns * HEIGHT / image.rows)))
    shown = Picture.fromarray(grey).resize((width, HEIGHT), Picture.Resampling.LANCZOS).convert("RGB")
    return np.concatenate([np.asarray(shown, dtype=np.uint8), panel.pixels()], axis=1)


@cache
def _font(size: int, *, chinese: bool) -> ImageFont.FreeTypeFont:
    if chinese:
        return ImageFont.truetype(str(CHINESE_FONT), size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; text cannot be drawn at a legible size")
    return font


class _Panel:
    """A column of text beside the film; `y` is where the next line goes."""

    def __init__(self, language: Language, width: int = PANEL_WIDTH) -> None:
        self.language = language
        self.canvas = Picture.new("RGB", (width, HEIGHT), GROUND)
        self.pen = ImageDraw.Draw(self.canvas)
        self.x, self.right, self.y = float(MARGIN), float(COLUMN_WIDTH - MARGIN), float(MARGIN)

    def pixels(self) -> NDArray[np.uint8]:
        return np.asarray(self.canvas, dtype=np.uint8)

    def label(self, key: str) -> str:
        return _LABELS[key][self.language == "zh"]

    def result(self, reading: Reading, priors: Sequence[Prior], amendment: Amendment | None) -> None:
        methods = wording.in_order(reading)
        self.headline(reading, methods)
        self.chart(reading, methods)
        self.agreement(reading)
        self.bones(reading, methods, amendment)
        self.footer(
            f"{self.label('models')}: {reading.bundle.name} {reading.bundle.version} ({reading.bundle.sha256[:12]})",
            amendment,
        )
        self.x, self.right, self.y = float(COLUMN_WIDTH), float(PANEL_WIDTH - MARGIN), float(MARGIN)
        self.position(reading, priors)
        self.notes(reading, amendment)

    def rejection(self, reasons: Sequence[Reason]) -> None:
        self.text(MARGIN, self.y, self.label("not read"), 46, ALARM)
        self.y += 90
        for line in wording.rejection(reasons, self.language).split("\n")[1:-1]:  # between headline and disclaimer
            self.paragraph(line, 28, INK)
            self.y += 12
        self.footer("", None)

    def headline(self, reading: Reading, methods: Sequence[MethodResult]) -> None:
        """Write the default method large, on each curve that was used, then the age it is to be compared with."""
        self.text(MARGIN, self.y, self.label("title"), 24, FAINT)
        self.y += 36
        shown = [m for m in methods if m.name == reading.default_method] or list(methods[:1])
        shown = [m for m in shown if m.bone_age_years is not None or m.qualifier]
        if not shown:
            self.text(MARGIN, self.y, self.label("no methods"), 30, ALARM)
            self.y += 56
        x = float(MARGIN)
        for method in shown:
            big = (
                f"{method.bone_age_years:.1f} {self.label('years')}"
                if method.bone_age_years is not None
                else self._why(method)
            )
            size = 68 if method.bone_age_years is not None else 26
            self.text(x, self.y, big, size, INK)
            name, curve = wording.method_name(method.name, self.language), wording.curve(method.sex, self.language)
            under = f"{name}（{curve}）" if self.language == "zh" else f"{name}, {curve}"
            if method.interval_years is not None:
                under += f", {method.interval_years[0]:.1f} - {method.interval_years[1]:.1f} (90 %)"
            self.text(x, self.y + 84, under, 20, FAINT)
            x += (self.right - self.x) / len(shown)
        if shown:
            self.y += 118
        self.paragraph(wording.age_sentence(reading, self.language), 20, AGE_LINE)
        self.rule()

    def chart(self, reading: Reading, methods: Sequence[MethodResult]) -> None:
        """Draw one row a method: name, age, interval and score, on an axis of years that all rows share.

        A method without a result stands below the axis with its reason.
        """
        columns = (MARGIN, MARGIN + 240, MARGIN + 310, MARGIN + 420, COLUMN_WIDTH - MARGIN - 50)
        with_age = [method for method in methods if method.bone_age_years is not None]
        size, step = (19, 32) if len(methods) <= 6 else (16, 23)
        if with_age:
            for x, key in zip(columns, ("method", "years", "interval", "", "score"), strict=True):
                self.text(x, self.y, self.label(key) if key else "", size - 3, FAINT)
            self.y += step
        low, high = _axis(reading)
        left, right = columns[3], columns[4] - 24

        def at(years: float) -> float:
            return left + (years - low) / (high - low) * (right - left)

        top = self.y
        for method in with_age:
            self.row(method, reading, columns, size, at)
            self.y += step
        if with_age:
            self.axis(reading, low, high, at, top)
        for method in methods:
            if method.bone_age_years is None:
                self.paragraph(f"{self.name(method, reading)}: {self._why(method)}", size - 3, FAINT)

    def row(
        self,
        method: MethodResult,
        reading: Reading,
        columns: Sequence[float],
        size: int,
        at: Callable[[float], float],
    ) -> None:
        age, middle = method.bone_age_years, self.y + size * 0.62
        if age is None:
            return
        self.text(columns[0], self.y, self.name(method, reading), size, INK)
        self.text(columns[1], self.y, f"{age:.1f}", size, INK)
        if method.interval_years is not None:
            low, high = method.interval_years
            self.text(columns[2], self.y, f"{low:.1f} - {high:.1f}", size, FAINT)
            self.pen.line((at(low), middle, at(high), middle), FAINT, 5)
        self.pen.ellipse((at(age) - 6, middle - 6, at(age) + 6, middle + 6), fill=INK)
        if method.score is not None:
            self.text(columns[4], self.y, f"{method.score:.0f}", size, INK)

    def axis(self, reading: Reading, low: float, high: float, at: Callable[[float], float], top: float) -> None:
        """Draw the years under the rows, and the chronological age through them."""
        every = 1 if high - low <= 9 else 2
        for year in range(int(np.ceil(low)), int(high) + 1):
            self.pen.line((at(year), self.y, at(year), self.y + 5), FAINT, 1)
            if year % every == 0:
                self.text(at(year), self.y + 8, str(year), 14, FAINT, anchor="middle")
        if reading.chronological_age_years is not None:
            x = at(reading.chronological_age_years)
            self.pen.line((x, top - 4, x, self.y), AGE_LINE, 2)
            self.text(x, self.y + 26, self.label("chronological"), 14, AGE_LINE, anchor="middle")
        self.y += 54

    def name(self, method: MethodResult, reading: Reading) -> str:
        """Return a method's name, with the curve where both are shown."""
        name = wording.method_name(method.name, self.language)
        return name if reading.sex else f"{name} ({codes.CURVES[method.sex].code(self.language).meaning})"

    def agreement(self, reading: Reading) -> None:
        sentence = wording.agreement_sentence(reading, self.language)
        if sentence:
            self.paragraph(sentence, 20, ALARM if reading.agreement.alarm else GOOD)
        self.rule()

    def bones(self, reading: Reading, methods: Sequence[MethodResult], amendment: Amendment | None) -> None:
        """Write one row a bone: stage in its colour, probability, runner-up, and the age one stage down or up."""
        x = (MARGIN, MARGIN + 215, MARGIN + 420, MARGIN + 515, MARGIN + 605)
        for place, key in zip(x, ("bone", "stage", "probability", "runner-up", "one stage"), strict=True):
            self.text(place, self.y, self.label(key), 15, FAINT)
        self.y += 24
        scored = next((method for method in methods if method.per_bone), None)
        for name in RUS:
            region = reading.region(name)
            self.text(
                x[0],
                self.y,
                wording.bone_name(name, self.language) + ("*" if name in codes.HARD_BONES else ""),
                18,
                INK,
            )
            if region is None or region.stage is None:
                self.text(x[1], self.y, self.label("absent" if region is None else "no age"), 18, FAINT)
            else:
                colour = overlay.STAGE_COLOURS.get(region.stage.letter, overlay.UNGRADED)
                self.pen.rectangle((x[1], self.y + 3, x[1] + 14, self.y + 17), fill=colour)
                self.text(x[1] + 24, self.y, f"{region.stage.label}  ({region.stage.letter})", 18, colour)
                self.certainty(x[2], x[3], region.name, region.stage, amendment)
                if scored is not None and name in scored.per_bone:
                    self.text(x[4], self.y, wording.changes(scored.per_bone[name]), 18, FAINT)
            self.y += 28
        self.text(MARGIN, self.y + 4, wording.hard_bones_note(self.language), 15, FAINT)

    def certainty(self, x: float, x_next: float, bone: str, stage: Stage, amendment: Amendment | None) -> None:
        """Write how sure the grader is; of a stage that a person gave, what the grader had said."""
        if amendment is not None and bone in amendment.stages:
            self.text(x, self.y, self.label("by hand"), 18, AGE_LINE)
            before = amendment.stage_before(bone)
            if before is not None:
                self.text(x_next, self.y, self.label("own").format(before), 18, FAINT)
            return
        doubtful = stage.probability < wording.DOUBTFUL
        self.text(x, self.y, f"{100 * stage.probability:.0f} %", 18, ALARM if doubtful else INK)
        if stage.runner_up is not None:
            self.text(x_next, self.y, stage.runner_up, 18, FAINT)

    def position(self, reading: Reading, priors: Sequence[Prior]) -> None:
        """Draw the bone age against the chronological age."""
        self.text(self.x, self.y, self.label("position"), 24, FAINT)
        self.y += 44
        width, height = self.right - self.x, 500.0
        for mark in growth.plot(reading, self.language, width, height, size=15, priors=priors):
            self.mark(mark, self.x, self.y)
        self.y += height + 20

    def mark(self, mark: growth.Mark, left: float, top: float) -> None:
        colour = MARKS[mark.role]
        if isinstance(mark, growth.Label):
            size = round(mark.size)
            self.text(left + mark.x, top + mark.y - size, mark.text, size, colour, anchor=mark.anchor)
        elif isinstance(mark, growth.Dot):
            x, y, r = left + mark.x, top + mark.y, mark.radius
            fill, outline = (None, colour) if mark.hollow else (colour, None)
            self.pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=outline, width=2)
        else:
            points = [(left + x, top + y) for x, y in mark.points]
            if isinstance(mark, growth.Area):
                self.pen.polygon(points, fill=colour)
            else:
                self.pen.line(points, colour, max(1, round(1.5 * mark.width)))

    def notes(self, reading: Reading, amendment: Amendment | None) -> None:
        """Write what was corrected, what was remarked on the film and which bones to look at."""
        corrected = [] if amendment is None else wording.correction_sentences(amendment, reading, self.language)
        remarks = [
            f"{self.label('note')}{'：' if self.language == 'zh' else ': '}{wording.reason_sentence(reason, self.language)}"
            for reason in reading.verdict.reasons
        ]
        why = [
            wording.position_sentence(reading, self.language),
            wording.no_position_sentence(reading, self.language),
            wording.check_sentence(reading, self.language),
        ]
        lines = [(line, AGE_LINE) for line in (*corrected, *remarks)] + [(line, INK) for line in why if line]
        if not lines:
            return
        self.rule()
        self.text(self.x, self.y, self.label("notes"), 20, FAINT)
        self.y += 32
        for line, colour in lines:
            self.paragraph(line, 17, colour)
            self.y += 6

    def footer(self, models: str, amendment: Amendment | None) -> None:
        self.text(MARGIN, HEIGHT - 92, models, 15, FAINT)
        if models and amendment is None:
            self.text(MARGIN, HEIGHT - 70, self.label("unverified"), 15, FAINT)
        elif amendment is not None:
            verified = (
                f"verified by {amendment.shown_observer}"
                if self.language == "en"
                else f"经{amendment.shown_observer}审核"
            )
            self.text(MARGIN, HEIGHT - 70, f"{verified}" if amendment.verified else self.label("corrected"), 15, FAINT)
        self.text(MARGIN, HEIGHT - 46, DISCLAIMER[self.language], 22, AGE_LINE)

    def rule(self) -> None:
        self.y += 8
        self.pen.line((self.x, self.y, self.right, self.y), RULE, 1)
        self.y += 14

    def paragraph(self, text: str, size: int, colour: Colour) -> None:
        """Write a text over as many lines as it needs; what would run into the footer is cut with an ellipsis."""
        for line in wrap(text, self.right - self.x, lambda part: self.width(part, size)):
            if self.y + size > HEIGHT - 100:
                return
            self.text(self.x, self.y, line, size, colour)
            self.y += size * 1.45

    def width(self, text: str, size: int) -> float:
        return sum(_font(size, chinese=chinese).getlength(run) for chinese, run in runs(text))

    def text(self, x: float, y: float, text: str, size: int, colour: Colour, *, anchor: str = "left") -> None:
        """Write one line with its top at `y`; Latin and Chinese runs each in their font on one baseline."""
        x -= {"left": 0.0, "middle": 0.5, "right": 1.0}[anchor] * self.width(text, size)
        for chinese, run in runs(text):
            font = _font(size, chinese=chinese)
            self.pen.text((x, y + size), run, fill=colour, font=font, anchor="ls")
            x += font.getlength(run)

    def _why(self, method: MethodResult) -> str:
        return wording.age_with_interval(method, self.language)


def _axis(reading: Reading) -> tuple[float, float]:
    """Return the range of years that holds every age and interval, at least four years wide."""
    values = [reading.chronological_age_years]
    for method in reading.methods:
        values += [method.bone_age_years, *(method.interval_years or ())]
    known = [value for value in values if value is not None] or [0.0, 20.0]
    low, high = np.floor(min(known) - 0.3), np.ceil(max(known) + 0.3)
    spare = max(0.0, 4 - (high - low)) / 2
    return float(low - spare), float(high + spare)
