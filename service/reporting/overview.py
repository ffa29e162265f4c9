"""Draw the overview of a reading: the film with its regions, and beside it every method, the agreement and each stage.

A picture for a glance: the default method large, all methods on one axis of years with their intervals and the chronological
age, then the bones; in a second column the place of the bone age among children of that age, and what to check. Nothing on it
identifies the patient beyond what the film itself shows.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from models import overlay
from models.image import Image
from models.reading import Reading, Reason
from service.reporting import growth, result_tables, wording
from service.reporting.amendment import Amendment
from service.reporting.codes import Language
from service.reporting.history import Prior
from service.reporting.result_tables import MethodRow, word
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


def film(image: Image, reading: Reading) -> NDArray[np.uint8]:
    """Draw the film with its regions, (HEIGHT, columns, 3) RGB, for the picture and for the page.

    Raises
    ------
    ValueError
        When the image and the reading are of different sizes.
    """
    stated = (reading.image.rows, reading.image.columns)
    if (image.rows, image.columns) != stated:
        raise ValueError(f"the film has {image.rows} x {image.columns} pixels, the reading {stated[0]} x {stated[1]}")
    return overlay.draw(image, reading, height=HEIGHT, footer=False)  # the words beside it say so in their language


def beside(
    drawn: NDArray[np.uint8],
    reading: Reading,
    language: Language,
    *,
    priors: Sequence[Prior] = (),
    amendment: Amendment | None = None,
) -> NDArray[np.uint8]:
    """Return the overview of a film that was read, (HEIGHT, columns, 3) RGB.

    Parameters
    ----------
    drawn
        From `film`.
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


@lru_cache(maxsize=4096)
def _length(run: str, size: int, *, chinese: bool) -> float:
    """Measure a run in one font; most are words of ours, measured for every film."""
    return float(_font(size, chinese=chinese).getlength(run))


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
        return word(key, self.language)

    def result(self, reading: Reading, priors: Sequence[Prior], amendment: Amendment | None) -> None:
        self.headline(reading)
        self.chart(reading)
        self.agreement(reading)
        self.bones(reading, amendment)
        self.footer(wording.made_by(reading, self.language, amendment))
        self.x, self.right, self.y = float(COLUMN_WIDTH), float(PANEL_WIDTH - MARGIN), float(MARGIN)
        self.position(reading, priors)
        self.notes(reading, amendment)

    def rejection(self, reasons: Sequence[Reason]) -> None:
        self.text(MARGIN, self.y, self.label("not read"), 46, ALARM)
        self.y += 90
        for line in wording.rejection(reasons, self.language).split("\n")[1:-1]:  # between headline and disclaimer
            self.paragraph(line, 28, INK)
            self.y += 12
        self.footer("")

    def headline(self, reading: Reading) -> None:
        """Write the default method large, on each curve that was used, then the age it is to be compared with."""
        self.text(MARGIN, self.y, self.label("title"), 24, FAINT)
        self.y += 36
        shown = result_tables.headline(reading)
        if not shown:
            self.paragraph(result_tables.no_headline(reading, self.language), 30, ALARM)
            self.y += 12
        x = float(MARGIN)
        for method in shown:
            age = method.bone_age_years
            if age is None:
                self.text(x, self.y, wording.age_with_interval(method, self.language), 26, INK)
            else:
                self.text(x, self.y, wording.years(age, self.language), 68, INK)
            self.text(x, self.y + 84, result_tables.under_headline(method, self.language), 22, FAINT)
            x += (self.right - self.x) / len(shown)
        if shown:
            self.y += 124
        self.paragraph(wording.age_sentence(reading, self.language), 22, AGE_LINE)
        self.rule()

    def chart(self, reading: Reading) -> None:
        """Draw one row a method: name, age, interval and score, on an axis of years that all rows share.

        A method without a result stands below the axis with its reason.
        """
        rows = list(result_tables.method_rows(reading, self.language))
        columns = (MARGIN, MARGIN + 250, MARGIN + 315, MARGIN + 430, COLUMN_WIDTH - MARGIN - 50)
        with_age = [row for row in rows if not row.why]
        size, step = (21, 35) if len(rows) <= 6 else (17, 24)
        if with_age:
            for x, key in zip(columns, ("method", "years", "interval", "", "score"), strict=True):
                self.text(x, self.y, self.label(key) if key else "", size - 3, FAINT)
            self.y += step
        low, high = _axis(reading)
        left, right = columns[3], columns[4] - 24

        def at(years: float) -> float:
            return left + (years - low) / (high - low) * (right - left)

        top = self.y
        for row in with_age:
            self.row(row, columns, size, at)
            self.y += step
        if with_age:
            self.axis(reading, low, high, at, top)
        for row in rows:
            if row.why:
                self.paragraph(f"{row.name}{'：' if self.language == 'zh' else ': '}{row.why}", size - 3, FAINT)

    def row(self, row: MethodRow, columns: Sequence[float], size: int, at: Callable[[float], float]) -> None:
        middle = self.y + size * 0.62
        cells = ((row.name, INK), (row.years, INK), (row.interval, FAINT), ("", INK), (row.score, INK))
        for x, (text, colour) in zip(columns, cells, strict=True):
            self.text(x, self.y, text, size, colour)
        if row.result.interval_years is not None:
            low, high = row.result.interval_years
            self.pen.line((at(low), middle, at(high), middle), FAINT, 5)
        if row.result.bone_age_years is not None:
            x = at(row.result.bone_age_years)
            self.pen.ellipse((x - 6, middle - 6, x + 6, middle + 6), fill=INK)

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

    def agreement(self, reading: Reading) -> None:
        sentence = wording.agreement_sentence(reading, self.language)
        if sentence:
            self.paragraph(sentence, 20, ALARM if reading.agreement.alarm else GOOD)
        self.rule()

    def bones(self, reading: Reading, amendment: Amendment | None) -> None:
        """Write one row a bone: stage in its colour, how sure it is, and the age one stage down or up."""
        x = (MARGIN, MARGIN + 225, MARGIN + 425, MARGIN + 505, MARGIN + 605)
        for place, key in zip(x, ("bone", "stage", "probability", "runner-up", "change"), strict=True):
            self.text(place, self.y, self.label(key), 17, FAINT)
        self.y += 28
        for row in result_tables.bone_rows(reading, self.language, amendment):
            self.text(x[0], self.y, row.name, 20, INK)
            if row.colour is None:
                self.text(x[1], self.y, row.stage, 20, FAINT)
            else:
                self.pen.rectangle((x[1], self.y + 4, x[1] + 15, self.y + 19), fill=row.colour)
                self.text(x[1] + 26, self.y, row.stage, 20, row.colour)
                sure = ALARM if row.doubtful else AGE_LINE if row.by_hand else INK
                self.text(x[2], self.y, row.certainty, 20, sure)
                self.text(x[3], self.y, row.runner_up, 20, FAINT)
                self.text(x[4], self.y, row.change, 20, FAINT)
            self.y += 31
        self.text(MARGIN, self.y + 4, wording.marks_note(self.language), 17, FAINT)

    def position(self, reading: Reading, priors: Sequence[Prior]) -> None:
        """Draw the bone age against the chronological age."""
        self.text(self.x, self.y, self.label("position"), 24, FAINT)
        self.y += 44
        width, height = self.right - self.x, 500.0
        for mark in growth.plot(reading, self.language, width, height, size=16, priors=priors):
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
        remarks = [wording.remark_sentence(reason, self.language) for reason in reading.verdict.reasons]
        says = (wording.side_sentence, wording.position_sentence, wording.no_position_sentence, wording.check_sentence)
        why = [said(reading, self.language) for said in says]
        lines = [(line, AGE_LINE) for line in (*corrected, *remarks)] + [(line, INK) for line in why if line]
        if not lines:
            return
        self.rule()
        self.text(self.x, self.y, self.label("notes"), 22, FAINT)
        self.y += 36
        for line, colour in lines:
            self.paragraph(line, 19, colour)
            self.y += 6

    def footer(self, made_by: str) -> None:
        self.text(MARGIN, HEIGHT - 74, made_by, 17, FAINT)
        self.text(MARGIN, HEIGHT - 46, DISCLAIMER[self.language], 22, AGE_LINE)

    def rule(self) -> None:
        self.y += 8
        self.pen.line((self.x, self.y, self.right, self.y), RULE, 1)
        self.y += 14

    def paragraph(self, text: str, size: int, colour: Colour) -> None:
        """Write a text over as many lines as it needs; what would run into the footer is cut with an ellipsis."""
        for line in wrap(text, self.right - self.x, lambda part: self.width(part, size)):
            if self.y + size > HEIGHT - 84:
                return
            self.text(self.x, self.y, line, size, colour)
            self.y += size * 1.45

    def width(self, text: str, size: int) -> float:
        return sum(_length(run, size, chinese=chinese) for chinese, run in runs(text))

    def text(self, x: float, y: float, text: str, size: int, colour: Colour, *, anchor: str = "left") -> None:
        """Write one line with its top at `y`; Latin and Chinese runs each in their font on one baseline."""
        x -= {"left": 0.0, "middle": 0.5, "right": 1.0}[anchor] * self.width(text, size)
        for chinese, run in runs(text):
            self.pen.text((x, y + size), run, fill=colour, font=_font(size, chinese=chinese), anchor="ls")
            x += _length(run, size, chinese=chinese)


def _axis(reading: Reading) -> tuple[float, float]:
    """Return the range of years that holds every age and interval, at least four years wide."""
    values = [reading.chronological_age_years]
    for method in reading.methods:
        values += [method.bone_age_years, *(method.interval_years or ())]
    known = [value for value in values if value is not None] or [0.0, 20.0]
    low, high = float(np.floor(min(known) - 0.3)), float(np.ceil(max(known) + 0.3))
    spare = max(0.0, 4 - (high - low)) / 2
    low = max(0.0, low - spare)
    return low, max(high + spare, low + 4)
