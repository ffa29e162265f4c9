"""Break text into lines and into runs that one font can draw; Latin and Chinese stand in one sentence."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Final

CHINESE_FONT: Final = Path(__file__).parent / "fonts" / "droid-sans-fallback-gb2312.ttf"
_OPENING: Final = "（"  # never at the end of one
_CLOSING: Final = "，。；：）、％～"  # never at the beginning of a line


def runs(text: str, latin: Callable[[str], bool] = str.isascii) -> list[tuple[bool, str]]:
    """Split into (is Chinese, run) by whether the Latin font draws the character."""
    return [(chinese, "".join(run)) for chinese, run in groupby(text, key=lambda character: not latin(character))]


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Break at spaces and between Chinese characters, so that no line measures more than `width`."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and measure(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*lines, line.rstrip()] if line.strip() else lines


def shortened(text: str, width: float, measure: Callable[[str], float]) -> str:
    """Return the text, cut with an ellipsis where it is too wide."""
    if measure(text) <= width:
        return text
    while text and measure(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _pieces(text: str) -> list[str]:
    """Split where a line may break: after a space, and around Chinese characters, but never before a closing mark."""
    pieces: list[str] = []
    for character in text:
        word_goes_on = bool(pieces) and (character + pieces[-1][-1]).isascii() and pieces[-1][-1] != " "
        if word_goes_on or (pieces and (character in _CLOSING or pieces[-1][-1] in _OPENING)):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces
