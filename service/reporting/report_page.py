"""Set the one-page report: film with regions, results, growth plot, every bone, conclusion; A4, fonts embedded.

Vector text and lines with ReportLab, so that the page can be searched and printed; the film alone is a picture. Equal inputs
give equal bytes.
"""

import math
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import reportlab
from numpy.typing import NDArray
from PIL import Image as Picture
from reportlab import rl_config
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from models.reading import Reading
from service.reporting import growth, result_tables, wording
from service.reporting.amendment import Amendment
from service.reporting.codes import Language
from service.reporting.history import Prior
from service.reporting.result_tables import word
from service.reporting.results import DISCLAIMER
from service.reporting.typesetting import CHINESE_FONT, runs, shortened, wrap

WIDTH, HEIGHT = 595.28, 841.89  # ISO 216 A4 in points
MARGIN: Final = 36.0
FILM: Final = (MARGIN, 150.0, 252.0, 318.0)  # left, top, width, height of the place for the film
LATIN, LATIN_BOLD, CHINESE = "CarpusLatin", "CarpusLatinBold", "CarpusChinese"
NO_GLYPH: Final = "〓"  # the printers' mark for a character that the font lacks

Colour = tuple[float, float, float]
INK: Final[Colour] = (0.10, 0.13, 0.17)
FAINT: Final[Colour] = (0.38, 0.43, 0.49)
RULE: Final[Colour] = (0.80, 0.83, 0.86)
ALARM: Final[Colour] = (0.75, 0.10, 0.08)
GOOD: Final[Colour] = (0.05, 0.45, 0.20)
MARKS: Final[dict[growth.Role, Colour]] = {
    **{"grid": (0.90, 0.92, 0.94), "axis": FAINT, "text": INK, "faint": FAINT, "wide": (0.88, 0.93, 0.98)},
    **{"narrow": (0.76, 0.86, 0.95), "mean": (0.35, 0.55, 0.75), "point": (0.75, 0.25, 0.05), "other": FAINT},
    **{"prior": (0.75, 0.25, 0.05), "age": (0.75, 0.60, 0.15)},
}
# What the page says of the patient and the study: (word, text, whether the character set was guessed).
Identity = Sequence[tuple[str, str, bool]]


def render(
    film: NDArray[np.uint8],
    reading: Reading,
    language: Language,
    *,
    identity: Identity,
    institution: str = "",
    priors: Sequence[Prior] = (),
    amendment: Amendment | None = None,
    history: Sequence[str] = (),
) -> bytes:
    """Return the page as a PDF file.

    Parameters
    ----------
    film
        (rows, columns, 3) RGB, with the regions drawn on it.
    history
        What is said of the earlier bone ages, from `wording.history_sentences`.
    """
    buffer = BytesIO()
    page = _Page(buffer, language)
    page.head(identity, institution)
    page.film(film)
    below = page.bones(reading, amendment, page.results(reading))
    page.conclusion(reading, amendment, below, history)
    page.position(reading, priors)
    page.foot(reading, amendment)
    page.canvas.showPage()
    page.canvas.save()
    return buffer.getvalue()


@cache
def fonts() -> tuple[frozenset[str], frozenset[str]]:
    """Register the fonts once; return the characters that the Latin and the Chinese one hold."""
    rl_config.useA85 = 0  # binary streams: a fifth smaller than as letters, which ReportLab forms letter by letter
    vera = Path(reportlab.__file__).parent / "fonts"
    faces = []
    for name, path in ((LATIN, vera / "Vera.ttf"), (LATIN_BOLD, vera / "VeraBd.ttf"), (CHINESE, CHINESE_FONT)):
        font = TTFont(name, str(path))
        pdfmetrics.registerFont(font)
        faces.append(frozenset(chr(code) for code in font.face.charToGlyph))
    return faces[0] & faces[1], faces[2]


class _Page:
    """The canvas with y counted down from the top, as every other picture of ours has it."""

    def __init__(self, buffer: BytesIO, language: Language) -> None:
        self.latin, self.chinese = fonts()
        self.language: Language = language
        self.canvas = Canvas(
            buffer, pagesize=(WIDTH, HEIGHT), invariant=1, initialFontName=LATIN, lang=f"{language}-{_REGION[language]}"
        )
        self.canvas.setTitle(self.word("report"))
        self.canvas.setAuthor("Carpus")
        self.canvas.setSubject(DISCLAIMER[language])

    def word(self, key: str) -> str:
        return word(key, self.language)

    def head(self, identity: Identity, institution: str) -> None:
        self.text(MARGIN, 58, self.word("report"), 20, bold=True)
        self.text(WIDTH - MARGIN, 46, institution, 10, FAINT, anchor="right")
        self.text(WIDTH - MARGIN, 60, DISCLAIMER[self.language], 11, ALARM, anchor="right", bold=True)
        self.rule(70)
        third = (WIDTH - 2 * MARGIN) / 3
        for place, (key, text, guessed) in enumerate(identity):
            x, y = MARGIN + third * (place % 3), 86 + 26 * (place // 3)
            self.text(x, y, self.word(key), 7, FAINT)
            shown = f"{text} {self.word('guessed')}" if guessed and text else text or "-"
            self.text(x, y + 12, shortened(shown, third - 8, lambda part: self.width(part, 10)), 10)
        self.rule(138)

    def film(self, film: NDArray[np.uint8]) -> None:
        left, top, width, height = FILM
        stream = BytesIO()
        picture = Picture.fromarray(film)
        picture.thumbnail((4 * width, 4 * height))
        picture.save(stream, "JPEG", quality=88)
        scale = min(width / picture.width, height / picture.height)
        w, h = picture.width * scale, picture.height * scale
        stream.seek(0)
        self.canvas.drawImage(ImageReader(stream), left + (width - w) / 2, HEIGHT - top - h, w, h)

    def results(self, reading: Reading) -> float:
        """Write the default method large, then every method in a row, then age and agreement; return where it ends."""
        x, y = 306.0, 150.0
        shown = result_tables.headline(reading)
        step = (WIDTH - MARGIN - x) / max(1, len(shown))
        for place, method in enumerate(shown):
            at = x + place * step
            if method.bone_age_years is not None:
                size = 24 if len(shown) == 1 else 18
                self.text(at, y + 24, wording.years(method.bone_age_years, self.language), size, bold=True)
            else:
                self.paragraph(at, y + 10, wording.age_with_interval(method, self.language), 10, step - 6)
            self.text(
                at, y + 38, result_tables.under_headline(method, self.language), 9 if len(shown) == 1 else 7.5, FAINT
            )
        if not shown:
            self.paragraph(x, y + 4, result_tables.no_headline(reading, self.language), 12, WIDTH - MARGIN - x, ALARM)
        y = self.methods(reading, x, y + 56)
        y = self.paragraph(x, y + 8, wording.age_sentence(reading, self.language), 8.5, WIDTH - MARGIN - x)
        agreement = wording.agreement_sentence(reading, self.language)
        if agreement:
            colour = ALARM if reading.agreement.alarm else GOOD
            y = self.paragraph(x, y + 3, agreement, 8.5, WIDTH - MARGIN - x, colour)
        return y

    def methods(self, reading: Reading, x: float, y: float) -> float:
        rows = list(result_tables.method_rows(reading, self.language))
        columns = (x, x + 108, x + 133, x + 183, x + 253)
        for place, (at, key) in enumerate(zip(columns, ("method", "years", "interval", "sds", "score"), strict=True)):
            self.text(at, y, self.word(key), 7, FAINT, anchor="right" if place == 4 else "left")
        step, size = (12.5, 8.0) if len(rows) <= 6 else (9.5, 6.5)

        def fitting(text: str, width: float) -> str:
            return shortened(text, width, lambda part: self.width(part, size))

        for row in rows:
            y += step
            self.text(columns[0], y, fitting(row.name, 106), size)
            self.text(columns[1], y, row.years, size)
            self.text(columns[2], y, row.interval, size, FAINT)
            self.text(columns[3], y, row.sds, size, FAINT)
            self.text(columns[4], y, row.score, size, FAINT, anchor="right")
            self.text(columns[1], y, fitting(row.why, WIDTH - MARGIN - columns[1]), size, FAINT)
        return y + 10

    def bones(self, reading: Reading, amendment: Amendment | None, below: float) -> float:
        """Write one row a bone: stage in its colour, how sure it is, the age one stage down or up; return the end."""
        x, y = 306.0, max(338.0, below + 20)
        self.text(x, y, self.word("bones"), 9, bold=True)
        y += 13
        columns = (x, x + 76, x + 127, x + 160, x + 203)
        for at, key in zip(columns, ("bone", "stage", "probability", "runner-up", "change"), strict=True):
            self.text(at, y, self.word(key), 7, FAINT)
        for row in result_tables.bone_rows(reading, self.language, amendment):
            y += 11.4
            self.text(columns[0], y, row.name, 8)
            if row.colour is None:
                self.text(columns[1], y, row.stage, 8.5, FAINT)
                continue
            red, green, blue = (value / 255 for value in row.colour)
            self.canvas.setFillColorRGB(red, green, blue)
            self.canvas.rect(columns[1], HEIGHT - y, 7, 7, stroke=0, fill=1)
            self.text(columns[1] + 11, y, row.stage, 8.5)
            self.text(columns[2], y, row.certainty, 8.5, ALARM if row.doubtful else INK)
            self.text(columns[3], y, row.runner_up, 8.5, FAINT)
            self.text(columns[4], y, row.change, 8.5, FAINT)
        return self.paragraph(x, y + 6, wording.marks_note(self.language), 7, WIDTH - MARGIN - x, FAINT)

    def position(self, reading: Reading, priors: Sequence[Prior]) -> None:
        x, y, size = MARGIN, 486.0, 8.0
        self.text(x, y, self.word("position"), 9, bold=True)
        for mark in growth.plot(reading, self.language, FILM[2], 284, size=size, priors=priors):
            self.mark(mark, x, y + 8)

    def mark(self, mark: growth.Mark, left: float, top: float) -> None:
        red, green, blue = MARKS[mark.role]
        pen = self.canvas
        pen.setStrokeColorRGB(red, green, blue)
        pen.setFillColorRGB(red, green, blue)
        if isinstance(mark, growth.Label):
            text_colour = (red, green, blue)
            self.text(left + mark.x, top + mark.y, mark.text, mark.size, text_colour, anchor=mark.anchor)
        elif isinstance(mark, growth.Dot):
            if mark.hollow:
                pen.setFillColorRGB(1, 1, 1)
            pen.circle(left + mark.x, HEIGHT - top - mark.y, mark.radius, stroke=1, fill=1)
        else:
            path = pen.beginPath()
            for place, (x, y) in enumerate(mark.points):
                (path.lineTo if place else path.moveTo)(left + x, HEIGHT - top - y)
            if isinstance(mark, growth.Area):
                path.close()
                pen.drawPath(path, stroke=0, fill=1)
            else:
                pen.setLineWidth(mark.width)
                pen.drawPath(path, stroke=1, fill=0)
                pen.setLineWidth(1)

    def conclusion(
        self, reading: Reading, amendment: Amendment | None, below: float, history: Sequence[str] = ()
    ) -> None:
        """Write the free text of the report; where it is long the letters get smaller, so that nothing is lost."""
        x, top, bottom = 306.0, max(540.0, below + 20), HEIGHT - 54
        self.text(x, top, self.word("conclusion"), 9, bold=True)
        lines = wording.conclusion(reading, self.language, amendment, history).split("\n")[
            :-1
        ]  # the last one stands in the foot
        size = 8.0
        while size > 4.5 and self.lines_of(lines, size, WIDTH - MARGIN - x) * 1.35 * size > bottom - top - 6:
            size -= 0.5
        y = top + 3
        for line in lines:
            y = self.paragraph(x, y, line, size, WIDTH - MARGIN - x)

    def lines_of(self, paragraphs: Sequence[str], size: float, width: float) -> int:
        return sum(len(wrap(text, width, lambda part: self.width(part, size))) for text in paragraphs)

    def foot(self, reading: Reading, amendment: Amendment | None) -> None:
        self.rule(HEIGHT - 50)
        self.text(MARGIN, HEIGHT - 38, wording.made_by(reading, self.language, amendment), 8)
        self.text(WIDTH - MARGIN, HEIGHT - 24, DISCLAIMER[self.language], 10, ALARM, anchor="right", bold=True)

    def rule(self, y: float) -> None:
        self.canvas.setStrokeColorRGB(*RULE)
        self.canvas.line(MARGIN, HEIGHT - y, WIDTH - MARGIN, HEIGHT - y)

    def paragraph(self, x: float, y: float, text: str, size: float, width: float, colour: Colour = INK) -> float:
        """Write a text over as many lines as it needs, the first baseline below y; return where the next one begins."""
        for line in wrap(text, width, lambda part: self.width(part, size)):
            y += 1.35 * size
            self.text(x, y, line, size, colour)
        return y

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        colour: Colour = INK,
        *,
        anchor: str = "left",
        bold: bool = False,
    ) -> None:
        """Write one line with its baseline at y."""
        if anchor != "left":
            x -= {"middle": 0.5, "right": 1.0}[anchor] * self.width(text, size, bold=bold)
        self.canvas.setFillColorRGB(*colour)
        for font, run in self.runs(text, bold=bold):
            self.canvas.setFont(font, size)
            self.canvas.drawString(x, HEIGHT - y, run)
            if bold and font == CHINESE:  # the font has one weight; a second stroke beside the first makes it heavier
                self.canvas.drawString(x + size / 40, HEIGHT - y, run)
            x += pdfmetrics.stringWidth(run, font, size)

    def width(self, text: str, size: float, *, bold: bool = False) -> float:
        return math.fsum(pdfmetrics.stringWidth(run, font, size) for font, run in self.runs(text, bold=bold))

    def runs(self, text: str, *, bold: bool) -> list[tuple[str, str]]:
        """Split into (font, run); a character that no font holds becomes the mark for it."""
        held = "".join(c if c in self.latin or c in self.chinese else NO_GLYPH for c in text)
        latin = LATIN_BOLD if bold else LATIN
        return [(CHINESE if chinese else latin, run) for chinese, run in runs(held, self.latin.__contains__)]


_REGION: Final[dict[Any, str]] = {"en": "US", "zh": "CN"}
