"""Films with their points, and the endless variety of views a network is trained on.

Everything a film may suffer is drawn here: any turn, mirror, scale and squash, gamma, inversion, blur, noise, lead
markers, frames, collimation, cut-off parts, a second hand, and pictures that are no hand at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models import transforms
from models.detection.anatomy import Template
from models.detection.conventions import CHANNELS, Points
from models.regions import REGIONS

Levels = NDArray[np.float32]
IGNORED: Final = -1


@dataclass(frozen=True, slots=True)
class Film:
    """One film of the training set.

    Parameters
    ----------
    pixels
        (rows, columns) uint8, bone bright; thumbnails keep their 100 x 100.
    aspect
        Columns / rows of the original: thumbnails are squashed, angles and lengths are those of the original.
    points, sizes
        As fractions of columns and rows; NaN where not stated.
    hand
        False for a picture that shows none: every channel is then absent.
    """

    pixels: NDArray[np.uint8]
    aspect: float
    points: Points
    sizes: NDArray[np.float32]
    hand: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What the network is shown and what it should say."""

    pixels: Levels  # (2, s, s)
    points: NDArray[np.float32]  # (89, 2) pixels of the view; NaN: no statement
    present: NDArray[np.int8]  # (89,) 1 in view, 0 absent, -1 no statement
    sizes: NDArray[np.float32]  # (22, 2) pixels of the view; NaN: no statement
    facts: NDArray[np.int8]  # (3,) hand, bone bright, more than one hand; -1 no statement


class Views:
    """Draw views of films."""

    def __init__(self, films: Sequence[Film], template: Template, size: int, seed: int) -> None:
        """Keep the films; `size` is the side of a view in pixels."""
        self.films = films
        self.hands = [film for film in films if film.hand]
        self.others = [film for film in films if not film.hand]
        self.template = template
        self.size = size
        self.rng = np.random.default_rng(seed)

    def draw(self) -> View:
        """Draw one view: mostly one hand, sometimes two, sometimes none."""
        chance = self.rng.random()
        if chance < 0.09:
            return self._two_hands()
        if chance < 0.17:
            return self._no_hand()
        film = self.hands[self.rng.integers(len(self.hands))]
        canonical = self.rng.random() < 0.45
        matrix = self._canonical_matrix(film) if canonical else self._scene_matrix(film)
        return self._finish(*self._look(film, matrix, sizes=canonical), cut=self.rng.random() < 0.2)

    def _true(self, film: Film) -> NDArray[np.float64]:
        """Points in a plane without squash: fractions of the rows."""
        true: NDArray[np.float64] = film.points * np.array([film.aspect, 1.0])
        return true

    def _pose(self, film: Film) -> transforms.Similarity:
        """Fit the template's hand (fractions of a view) to the film's plane."""
        points = self._true(film)
        known = ~np.isnan(points[:, 0])
        return transforms.Similarity.fit(self.template.points[known], points[known])

    def _to_pixels(self, film: Film, plane: transforms.Matrix) -> transforms.Matrix:
        """Turn a map to the film's plane into a map to its stored, perhaps squashed, pixels."""
        rows, columns = film.pixels.shape
        squash = np.array([[columns / film.aspect, 0.0, -0.5], [0.0, rows, -0.5]])
        return transforms.compose(squash, plane)

    def _canonical_matrix(self, film: Film) -> transforms.Matrix:
        """Show an upright left hand as the second look sees it, a little off."""
        rng, size = self.rng, self.size
        wobble = _about_middle(
            size, rng.normal(0, np.deg2rad(7)), float(np.exp(rng.normal(0, 0.08))), rng.normal(0, 0.025, 2) * size, rng
        )
        unit = np.array([[1 / size, 0.0, 0.5 / size], [0.0, 1 / size, 0.5 / size]])
        return self._to_pixels(film, transforms.compose(self._pose(film).matrix, transforms.compose(unit, wobble)))

    def _scene_matrix(
        self, film: Film, share: tuple[float, float] = (0.42, 1.25), turned: float = 0.5
    ) -> transforms.Matrix:
        """Show the hand anywhere, at any turn, mirrored or not; `share` is its size relative to the canonical view."""
        rng, size = self.rng, self.size
        scale = float(np.exp(rng.uniform(*np.log(share))))
        turn = rng.uniform(-np.pi, np.pi) if rng.random() < turned else rng.normal(0, np.deg2rad(18))
        free = max(0.06, 0.5 * (1 - scale)) * size
        wobble = _about_middle(size, turn, 1 / scale, rng.uniform(-free, free, 2), rng)
        if rng.random() < 0.5:
            wobble = transforms.compose(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]), wobble)
        unit = np.array([[1 / size, 0.0, 0.5 / size], [0.0, 1 / size, 0.5 / size]])
        return self._to_pixels(film, transforms.compose(self._pose(film).matrix, transforms.compose(unit, wobble)))

    def _look(
        self, film: Film, matrix: transforms.Matrix, *, sizes: bool
    ) -> tuple[Levels, NDArray[np.float32], NDArray[np.float32], bool]:
        rows, columns = film.pixels.shape
        pixels = transforms.stretch(film.pixels.astype(np.float32))
        view = transforms.sample(pixels, matrix, self.size)
        stored = film.points * np.array([columns, rows]) - 0.5
        points = transforms.apply(transforms.invert(matrix), stored).astype(np.float32)
        boxes = np.full((len(REGIONS), 2), np.nan, np.float32)
        if sizes:
            back = np.abs(transforms.invert(matrix)[:, :2])
            # Axis-aligned boxes survive small turns only; the rest of the films says nothing about sizes.
            if max(back[0, 1], back[1, 0]) < 0.35 * min(back[0, 0], back[1, 1]):
                boxes = (film.sizes * np.array([columns * back[0, 0], rows * back[1, 1]])).astype(np.float32)
        return view, points, boxes, film.hand

    def _finish(
        self,
        view: Levels,
        points: NDArray[np.float32],
        boxes: NDArray[np.float32],
        hand: bool,
        *,
        cut: bool = False,
        two: bool = False,
    ) -> View:
        rng, size = self.rng, self.size
        grey, mask = view[0], view[1]
        stated = np.ones(len(points), np.bool_) if not hand else ~np.isnan(points[:, 0])
        with np.errstate(invalid="ignore"):
            inside: NDArray[np.bool_] = np.all((points > 1) & (points < size - 2), axis=1)
        covered = np.zeros(mask.shape, np.bool_)
        if hand and not two and cut:
            covered, kept = _line(rng, size, points)
            inside &= kept
        open_ended = rng.random() < 0.5  # the film ends there; else it goes on, shielded or unexposed
        if open_ended:
            mask = np.where(covered, np.float32(0), mask)
        grey = _spoil(rng, grey, mask, points[inside])
        if not open_ended:
            grey[covered] = rng.choice([0.0, 1.0])
        bright = rng.random() >= 0.25
        if not bright:
            grey = (1 - grey) * mask
        visible = inside[stated].mean() if hand and stated.any() else 0.0
        facts = np.array(
            [
                (1 if visible > 0.75 else IGNORED) if hand else 0,
                int(bright) if hand else IGNORED,
                int(two) if hand else IGNORED,
            ],
            np.int8,
        )
        present = np.where(stated, inside & hand, IGNORED).astype(np.int8)
        return View(np.stack([grey * mask, mask]).astype(np.float32), points, present, boxes, facts)

    def _two_hands(self) -> View:
        """Two hands side by side: the left one is to be read."""
        rng, size = self.rng, self.size
        split = int(rng.uniform(0.4, 0.6) * size)
        left_first = rng.random() < 0.75
        parts = []
        for left in (True, False):
            film = self.hands[rng.integers(len(self.hands))]
            low, high = (0, split) if left == left_first else (split, size)
            width = (high - low) / size
            scale = width * float(rng.uniform(0.95, 1.2))
            wobble = _about_middle(size, rng.normal(0, np.deg2rad(9)), 1 / scale, np.zeros(2), rng)
            if not left:
                wobble = transforms.compose(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]), wobble)
            centre = (low + high) / 2
            shift = np.array([[1.0, 0.0, size / 2 - centre], [0.0, 1.0, rng.normal(0, 0.06) * size]])
            unit = np.array([[1 / size, 0.0, 0.5 / size], [0.0, 1 / size, 0.5 / size]])
            plane = transforms.compose(
                self._pose(film).matrix, transforms.compose(unit, transforms.compose(wobble, shift))
            )
            parts.append((self._look(film, self._to_pixels(film, plane), sizes=False), low, high))
        (view, points, boxes, hand), low, high = parts[0]
        view = view.copy()
        other = parts[1][0][0]
        columns = np.arange(size)
        outside = (columns < low) | (columns >= high)
        if rng.random() < 0.5:  # two films side by side, or scanned on one sheet
            view[:, :, outside] = other[:, :, outside]
        else:  # one exposure: no seam, fingers may reach over
            soft = np.clip((columns - (low if low else high)) / (0.12 * size), -0.5, 0.5) + 0.5
            own = (soft if low else 1 - soft).astype(np.float32)
            view = view * own + other * (1 - own)
            view[1] = np.maximum(parts[0][0][0][1], other[1])
        return self._finish(view, points, boxes, hand, two=True)

    def _no_hand(self) -> View:
        """Draw something else: another body part, a torn-up hand, texture, nothing."""
        rng, size = self.rng, self.size
        nothing = np.full((len(CHANNELS), 2), np.nan, np.float32)
        boxes = np.full((len(REGIONS), 2), np.nan, np.float32)
        if self.others and rng.random() < 0.6:
            film = self.others[rng.integers(len(self.others))]
            box = transforms.letterbox(film.pixels.shape, size)
            turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.4 else rng.normal(0, 0.2)
            matrix = transforms.compose(
                box, _about_middle(size, turn, float(rng.uniform(0.5, 1.2)), rng.normal(0, 0.08, 2) * size, rng)
            )
            view = transforms.sample(transforms.stretch(film.pixels.astype(np.float32)), matrix, size)
            return self._finish(view, nothing, boxes, False)
        film = self.hands[rng.integers(len(self.hands))]
        view, _, _, _ = self._look(film, self._scene_matrix(film, (0.8, 1.6)), sizes=False)
        if rng.random() < 0.6:
            parts = int(rng.integers(3, 7))
            side = size // parts
            tiles = [
                view[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
                for y in range(parts)
                for x in range(parts)
            ]
            order = rng.permutation(len(tiles))
            torn = np.zeros_like(view)
            for place, index in enumerate(order):
                y, x = divmod(place, parts)
                torn[:, y * side : (y + 1) * side, x * side : (x + 1) * side] = np.rot90(
                    tiles[index], int(rng.integers(4)), (1, 2)
                )
            view = torn
        else:
            coarse = rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))).astype(np.float32)
            zoom = (size / coarse.shape[0], size / coarse.shape[1])
            view = np.stack(
                [
                    ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest")[:size, :size],
                    np.ones((size, size), np.float32),
                ]
            )
        return self._finish(view, nothing, boxes, False)


def _about_middle(
    size: int, turn: float, zoom: float, shift: NDArray[np.float64], rng: np.random.Generator
) -> transforms.Matrix:
    """Turn, zoom, shift and now and then squash a view about its middle."""
    squash = float(np.exp(rng.uniform(-0.4, 0.4))) ** 0.5 if rng.random() < 0.6 else 1.0
    cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
    linear = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([squash, 1 / squash])
    middle = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (middle - linear @ (middle + shift))[:, None]])


def _line(
    rng: np.random.Generator, size: int, points: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw a line through a view; return the pixels beyond it and which points are left."""
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    offset = rng.uniform(0.05, 0.38) * size
    grid = np.arange(size) - (size - 1) / 2
    beyond: NDArray[np.bool_] = normal[0] * grid[None, :] + normal[1] * grid[:, None] >= offset
    with np.errstate(invalid="ignore"):
        kept: NDArray[np.bool_] = (points - (size - 1) / 2) @ normal < offset - 1
    return beyond, kept


def _spoil(rng: np.random.Generator, grey: Levels, mask: Levels, points: NDArray[np.float32]) -> Levels:
    """Do to the grey levels what exposure, scanning and compression do."""
    size = grey.shape[0]
    grey = grey ** np.float32(np.exp(rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.3:  # uneven exposure
        grid = np.linspace(-1, 1, size, dtype=np.float32)
        slope = rng.normal(0, 0.15, 2).astype(np.float32)
        grey = grey * (1 + slope[0] * grid[None, :] + slope[1] * grid[:, None])
    if rng.random() < 0.35:  # low contrast: a bright or a dark base
        base, span = float(rng.uniform(0, 0.5)), float(rng.uniform(0.35, 1.0))
        grey = base + span * (1 - base) * grey
    chance = rng.random()
    if chance < 0.3:
        grey = ndimage.gaussian_filter(grey, float(rng.uniform(0.4, 2.0)))
    elif chance < 0.45:  # few pixels, each repeated
        step = int(rng.integers(2, 5))
        grey = np.repeat(np.repeat(grey[::step, ::step], step, 0), step, 1)[:size, :size]
    if rng.random() < 0.5:
        grey = grey + rng.normal(0, rng.uniform(0.005, 0.06), grey.shape).astype(np.float32)
    grey = np.array(grey, np.float32)
    if rng.random() < 0.3:
        _markers(rng, grey)
    if rng.random() < 0.35 and len(points):
        _frame(rng, grey, mask, points)
    return np.clip(grey, 0, 1)


def _markers(rng: np.random.Generator, grey: Levels) -> None:
    """Lay lead letters on the film."""
    size = grey.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        height, width = (rng.uniform(0.03, 0.11, 2) * size).astype(int) + 2
        y, x = rng.integers(0, size - height), rng.integers(0, size - width)
        letters = rng.random((4, 4)) < 0.55
        stroke = np.kron(letters, np.ones((height // 4 + 1, width // 4 + 1)))[:height, :width]
        patch = grey[y : y + height, x : x + width]
        if rng.random() < 0.4:
            patch += (rng.uniform(0, 0.5) - patch) * 0.6
        patch[stroke > 0] = rng.uniform(0.8, 1.0)


def _frame(rng: np.random.Generator, grey: Levels, mask: Levels, points: NDArray[np.float32]) -> None:
    """Lay a collimator's edge or a scanner's frame around the hand, at any small angle."""
    size = grey.shape[0]
    turn = rng.normal(0, 0.12)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    along = points @ axes.T
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) @ axes.T
    outside = np.zeros((size, size), bool)
    for axis in (0, 1):
        for sign in (-1, 1):
            if rng.random() < 0.7:
                edge = (sign * along[:, axis]).max() + size * rng.uniform(0.06, 0.2)
                outside |= sign * grid[..., axis] > edge
    level = rng.choice([0.0, 1.0, float(rng.random())])
    rim = (
        ndimage.binary_dilation(outside, iterations=int(rng.integers(1, 4))) & ~outside if rng.random() < 0.4 else None
    )
    grey[outside] = level
    if rim is not None:
        grey[rim] = 1 - level
    if rng.random() < 0.2:
        mask[outside] = 0
