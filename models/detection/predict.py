"""Find the regions of a hand: look at the whole film, turn the hand upright, look again, then look at each region closely.

The first look sees the film letterboxed into a small view and finds side, turn, scale and polarity; where it sees no hand, it
looks once more at what there is on the film (`nearer`). The second look sees
the hand as every hand is seen: upright, left, bone bright, filling the view. Where the film has the pixels for it, a third look
moves and sizes each region's box from a view of the region alone (`closer`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import transforms, weights
from models.detection import anatomy, cast, closer, nearer, second, splint
from models.detection.conventions import CHANNELS
from models.detection.hidden import UNDER_CAST, hidden
from models.detection.network import Found, build, decode
from models.detection.verdict import (
    HAND_PROBABILITY,
    MAXIMUM_MISFIT,
    MAXIMUM_MISSING,
    MINIMUM_FITTING,
    MINIMUM_REGIONS,
    Evidence,
    judge,
)
from models.folding import folded
from models.image import Image
from models.reading import Box, ImageFacts, Reason, Region, Verdict
from models.regions import RADIUS, REGIONS

ARCHITECTURES: Final = ("handnet",)
CLOSER: Final = "closer."  # what the names of the closer look's tensors begin with
CAST: Final = "cast."  # and of those of the look for casts
PRESENT: Final = 0.5  # probability from which on a point counts as seen
LOOKS: Final = 3  # upright looks at most: another one where the last moved the pose or turned the polarity
BROAD: Final = (
    0.3  # logarithm of the squash up to which a hand may as well be broad or slender: it is looked at as it is
)
ALREADY_BRIGHT: Final = 4.0  # log odds that bone is bright in pixels turned by what the first hand showed
CLOSE_ENOUGH: Final = 16  # pixels a region's side must have, after averaging, for a closer look at it
WORKING_SIDE: Final = 320  # films are averaged down to between this and twice this before they are looked at


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found on one film.

    Parameters
    ----------
    regions
        Those that lie on the film; boxes in pixels of the film as received.
    upright
        (2, 3), maps fractions of the canonical view (left hand, fingers up, thumb right) to the film; None where no hand is.
    points
        Every point that was seen, by the name of its channel, in pixels of the film.
    """

    regions: tuple[Region, ...]
    facts: ImageFacts
    verdict: Verdict
    upright: transforms.Matrix | None = None
    points: Mapping[str, tuple[float, float]] | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """One pass of the network, points in pixels of the film."""

    points: NDArray[np.float64]  # (89, 2)
    presence: NDArray[np.float64]
    focus: NDArray[np.float64]
    sizes: NDArray[np.float64]  # (22, 2) pixels of the view
    facts: NDArray[np.float64]  # probabilities: a hand, bone bright, more than one hand


@dataclass(frozen=True, slots=True)
class _Hand:
    """One hand, looked at upright."""

    look: _Look
    through: anatomy.Pose  # the pose it was seen through
    pose: anatomy.Pose  # the pose that was seen
    dark: bool  # bone is dark in the film as it came


class Detector:
    """The detector of one weights folder; safe to share between threads, since it keeps no state."""

    architectures: ClassVar[Collection[str]] = ARCHITECTURES

    def __init__(self, folder: Path) -> None:
        """Load and verify the weights.

        Raises
        ------
        models.weights.WeightsRefused
            When the folder holds something else, or not what was saved.
        """
        state, metadata = weights.load(folder, problem="detection", architectures=self.architectures)
        self.size = int(metadata.preprocessing["size"])
        self.network = build(dict(metadata.hyperparameters))
        self.network.load_state_dict({k: v for k, v in state.items() if not k.startswith((CLOSER, CAST))})
        self.closer: closer.Closer | None = None
        if "closer" in metadata.hyperparameters:
            self.closer = closer.Closer(int(metadata.hyperparameters["closer"]))
            self.closer.load_state_dict({k.removeprefix(CLOSER): v for k, v in state.items() if k.startswith(CLOSER)})
            folded(self.closer).to(memory_format=torch.channels_last)
        self.cast: cast.CastNet | None = None
        if "cast" in metadata.hyperparameters:
            self.cast = cast.CastNet(int(metadata.hyperparameters["cast"]))
            self.cast.load_state_dict({k.removeprefix(CAST): v for k, v in state.items() if k.startswith(CAST)})
            folded(self.cast)
        folded(self.network).to(memory_format=torch.channels_last)
        self.template = anatomy.Template.load()

    def detect(self, image: Image) -> Detection:
        """Find the regions on one film and judge it."""
        small, block = transforms.shrink(image.pixels, WORKING_SIDE)
        small = transforms.stretch(small)
        whole = self._look(small, block, transforms.letterbox(small.shape, self.size))
        pose = self._pose(whole)
        if pose is None or whole.facts[0] < HAND_PROBABILITY:
            whole, pose = self._nearer(small, block) or (whole, pose)
        odds = _log_odds(whole.facts[1])  # that bone is bright in the film as it came
        hand = None if pose is None else self._upright(small, block, pose, odds)
        if hand is None or not _sound(hand):
            whole, hand = self._at_an_end(small, block) or (whole, hand)
        if hand is None:
            return self._nothing(image, whole, odds < 0)
        other = self._other(small, block, hand)
        if other is not None and hand.pose.laterality == "R" and self._whole_left(image, other):
            hand, other = other, hand
        if self.closer is not None and abs(np.log(hand.through.squash)) <= BROAD:
            pixels = 1 - small if hand.dark else small
            look = self._closer_look(self.closer, hand.look, hand.through, pixels, block)
            hand = replace(hand, look=look)
        return self._assemble(image, whole, hand, other, self._under_cast(small, block, hand))

    def upright_view(self, image: Image, found: Detection) -> NDArray[np.float32]:
        """Return the (2, size, size) view of a hand that was found: upright, left, bone bright, and where the film is."""
        if found.upright is None:
            raise ValueError("no hand was found on the film: there is no upright view of it")
        small, block = transforms.shrink(image.pixels, WORKING_SIDE)
        small = transforms.stretch(small)
        bright = 1 - small if found.facts.polarity == "bone dark" else small
        return transforms.sample(bright, self._canonical(found.upright, block), self.size)

    def _upright(self, pixels: NDArray[np.float32], block: float, pose: anatomy.Pose, odds: float) -> _Hand | None:
        """Look at a hand upright until pose and polarity stay as they are; None where no hand is seen any more."""
        for _ in range(LOOKS):
            dark = odds < 0
            look = self._look(1 - pixels if dark else pixels, block, self._canonical(pose.matrix, block))
            closer = self._pose(look)
            if closer is None:
                return None
            odds += _log_odds(look.facts[1]) * (-1 if dark else 1)
            seen_through, pose = pose, closer
            if dark == (odds < 0) and seen_through.agrees_with(pose):
                break
        return _Hand(look, seen_through, pose, dark)

    def _other(self, pixels: NDArray[np.float32], block: float, hand: _Hand) -> _Hand | None:
        """Take the hand that was found out of the film and look whether there is another one."""
        bright = 1 - pixels if hand.dark else pixels
        seen = hand.look.points[hand.look.presence > PRESENT]
        taken = second.taken(self.template, hand.pose, seen, pixels.shape, block)
        left = np.where(taken, nearer.plate(bright), bright)
        near = nearer.around(left, self.size)
        for matrix in (*(() if near is None else (near,)), transforms.letterbox(pixels.shape, self.size)):
            look = self._look(bright, block, matrix, without=taken)
            pose = self._pose(look) if _regions_seen(look) >= MINIMUM_REGIONS else None
            other = None if pose is None else self._upright(bright, block, pose, ALREADY_BRIGHT)
            if other is not None and self._is_another(hand, other, taken, block):
                return replace(other, dark=hand.dark)
        return None

    def _is_another(self, first: _Hand, hand: _Hand, taken: NDArray[np.bool_], block: float) -> bool:
        """Whether what was seen beside the first hand is a hand, bone bright, as large, and most of it is not the first one."""
        places = ((hand.look.points[: len(REGIONS)] - (block - 1) / 2) / block).round().astype(np.intp)
        column, row = np.clip(places, 0, (taken.shape[1] - 1, taken.shape[0] - 1)).T
        return (
            not hand.dark
            and _sound(hand)
            and abs(np.log(hand.pose.upright.scale / first.pose.upright.scale)) <= np.log(second.ALIKE)
            and float(np.mean(~taken[row, column])) >= second.APART
        )

    def _whole_left(self, image: Image, hand: _Hand) -> bool:
        """Whether a hand is a left one with enough on the film to be read."""
        seen = (hand.look.presence > PRESENT)[: len(REGIONS)] & _on_film(image, hand.look.points)[: len(REGIONS)]
        whole = int(seen.sum()) >= len(REGIONS) - MAXIMUM_MISSING and seen[REGIONS.index(RADIUS)]
        return hand.pose.laterality == "L" and bool(whole)

    def _nearer(self, pixels: NDArray[np.float32], block: float) -> tuple[_Look, anatomy.Pose] | None:
        """Look at what there is on the film alone; None where no hand is seen there either."""
        matrix = nearer.around(pixels, self.size)
        if matrix is None:
            return None
        look = self._look(pixels, block, matrix)
        pose = self._pose(look) if look.facts[0] >= HAND_PROBABILITY else None
        return None if pose is None else (look, pose)

    def _at_an_end(self, pixels: NDArray[np.float32], block: float) -> tuple[_Look, _Hand] | None:
        """Look at each end of a long film for a whole hand: of two that touch, the view of the whole may show none."""
        for matrix in nearer.ends(pixels.shape, self.size):
            look = self._look(pixels, block, matrix)
            pose = self._pose(look) if look.facts[0] >= HAND_PROBABILITY else None
            hand = None if pose is None else self._upright(pixels, block, pose, _log_odds(look.facts[1]))
            if hand is not None and _sound(hand) and _regions_seen(hand.look) >= len(REGIONS) - MAXIMUM_MISSING:
                return look, hand
        return None

    def _look(
        self,
        pixels: NDArray[np.float32],
        block: float,
        matrix: transforms.Matrix,
        without: NDArray[np.bool_] | None = None,
    ) -> _Look:
        """Run the network on what the matrix (view to shrunk film) shows; where `without` is, as if there were no film."""
        sampled = transforms.sample(pixels, matrix, self.size)
        if without is not None:
            sampled *= transforms.sample(1 - without.astype(np.float32), matrix, self.size)[:1] > 0.5
        view = torch.from_numpy(sampled)[None]
        with torch.inference_mode():
            output = self.network(view.to(memory_format=torch.channels_last))
            found: Found = decode(output)
            facts = torch.sigmoid(output.facts.float())[0].numpy()
        to_film = transforms.unshrink(matrix, block)
        return _Look(
            transforms.apply(to_film, _for_all(found.points[0])),
            _for_all(found.presence[0]),
            _for_all(found.focus[0]),
            found.sizes[0].numpy().astype(np.float64),
            facts.astype(np.float64),
        )

    def _closer_look(
        self, net: closer.Closer, look: _Look, pose: anatomy.Pose, pixels: NDArray[np.float32], block: float
    ) -> _Look:
        """Move and size the boxes of the regions that have the pixels for it; `pixels` is the shrunk film, bone bright."""
        scale = pose.upright.scale / self.size / block  # pixels of the shrunk film a pixel of the view
        regions = len(REGIONS)
        middles = (look.points[:regions] - (block - 1) / 2) / block
        upright = pose.upright.matrix[:, :2] / pose.upright.scale
        across = scale * np.array([1 / pose.squash, 1.0])
        moved, sizes = closer.look(net, pixels, upright, middles, look.sizes * across)
        close = look.sizes.mean(axis=1) * scale >= CLOSE_ENOUGH
        points = look.points.copy()
        points[:regions][close] = (moved * block + (block - 1) / 2)[close]
        return replace(look, points=points, sizes=np.where(close[:, None], sizes / across, look.sizes))

    def _under_cast(self, pixels: NDArray[np.float32], block: float, hand: _Hand) -> frozenset[str]:
        """Name the regions that lie under a cast or splint; `pixels` is the shrunk film."""
        if self.cast is None:
            return frozenset()
        bright = 1 - pixels if hand.dark else pixels
        view = transforms.sample(bright, self._canonical(hand.pose.matrix, block), self.size)
        back = transforms.invert(hand.pose.matrix)
        return cast.under(self.cast, cast.halved(view), transforms.apply(back, hand.look.points[: len(REGIONS)]))

    def _pose(self, look: _Look) -> anatomy.Pose | None:
        return anatomy.pose(self.template, look.points, (look.presence > PRESENT) & (look.focus > 0.2))

    def _canonical(self, upright: transforms.Matrix, block: float) -> transforms.Matrix:
        """Map pixels of the canonical view to pixels of the shrunk film; `upright` maps its fractions to the film."""
        unit = np.array([[1 / self.size, 0.0, 0.5 / self.size], [0.0, 1 / self.size, 0.5 / self.size]])
        film = transforms.compose(upright, unit)
        return np.hstack([film[:, :2] / block, (film[:, 2:] - (block - 1) / 2) / block])

    def _assemble(
        self, image: Image, whole: _Look, hand: _Hand, other: _Hand | None, casts: frozenset[str]
    ) -> Detection:
        """Join both looks into regions, facts and a verdict."""
        look, seen_through, pose = hand.look, hand.through, hand.pose
        points = look.points
        seen = (look.presence > PRESENT) & _on_film(image, points)
        upright = transforms.apply(transforms.invert(pose.matrix), points)
        wrong = anatomy.out_of_order(upright, seen)
        scale, turn = seen_through.upright.scale / self.size, seen_through.upright.radians
        boxes, scores = {}, {}
        for index, name in enumerate(REGIONS):
            if seen[index]:
                boxes[name] = _box(points[index], look.sizes[index] * scale, turn, seen_through.squash)
                scores[name] = float(look.presence[index] * min(1.0, look.focus[index]))
        astray = np.hypot(*(upright - self.template.points).T)
        lost = hidden(image.pixels, boxes, scores, {name: float(astray[REGIONS.index(name)]) for name in boxes})
        casts |= splint.under(image.pixels, boxes, dark=hand.dark)
        lost |= {name: UNDER_CAST for name in boxes if name in casts}
        regions = [
            Region(name, box, round(scores[name], 4), flags=("order",) if name in wrong else ())
            for name, box in boxes.items()
            if name not in lost
        ]
        facts = ImageFacts(
            rows=image.rows,
            columns=image.columns,
            pixel_spacing_mm=image.pixel_spacing_mm,
            laterality=pose.laterality,
            laterality_declared=image.laterality,
            polarity="bone dark" if hand.dark else "bone bright",
            polarity_declared=image.photometric_interpretation,
            rotation_degrees=round(anatomy.rotation_degrees(points), 1),
        )
        evidence = Evidence(
            hand_probability=float(max(whole.facts[0], look.facts[0])),
            two_hands_probability=float(whole.facts[2]),
            found=tuple(region.name for region in regions),
            fitting=pose.fitting,
            misfit=pose.misfit,
            out_of_order=[name for name in wrong if name not in lost],
            hidden=lost,
            other=None if other is None else second.Other(other.pose.laterality, second.lies(hand.pose, other.pose)),
        )
        named = {
            name: (float(points[index, 0]), float(points[index, 1]))
            for index, name in enumerate(CHANNELS)
            if seen[index]
        }
        verdict = judge(image, facts, evidence)
        return Detection(tuple(regions), facts, verdict, pose.matrix, named)

    def _nothing(self, image: Image, whole: _Look, dark: bool) -> Detection:
        """State that no hand was found; facts that need one are empty."""
        facts = ImageFacts(
            rows=image.rows,
            columns=image.columns,
            pixel_spacing_mm=image.pixel_spacing_mm,
            laterality=None,
            laterality_declared=image.laterality,
            polarity="bone dark" if dark else "bone bright",
            polarity_declared=image.photometric_interpretation,
            rotation_degrees=0.0,
        )
        evidence = Evidence(float(whole.facts[0]), float(whole.facts[2]), (), 0.0, 0.0, ())
        verdict = judge(image, facts, evidence)
        if verdict.accepted:
            verdict = Verdict(False, (Reason("not-a-hand", "no hand could be pieced together from what was seen"),))
        return Detection((), facts, verdict)


def _for_all(values: torch.Tensor) -> NDArray[np.float64]:
    """Give every channel a value: weights of an earlier day know fewer, and see nothing of the rest."""
    filled = np.zeros((len(CHANNELS), *values.shape[1:]))
    filled[: len(values)] = values.numpy()
    return filled


def _on_film(image: Image, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    edge = np.array([image.columns - 1, image.rows - 1])
    inside: NDArray[np.bool_] = np.all((points >= 0) & (points <= edge), axis=1)
    return inside


def _regions_seen(look: _Look) -> int:
    return int((look.presence[: len(REGIONS)] > PRESENT).sum())


def _sound(hand: _Hand) -> bool:
    """Whether enough of a hand was seen, and lies as in a hand."""
    return (
        _regions_seen(hand.look) >= MINIMUM_REGIONS
        and hand.pose.fitting >= MINIMUM_FITTING
        and hand.pose.misfit <= MAXIMUM_MISFIT
    )


def _log_odds(probability: float) -> float:
    return float(np.log(max(probability, 1e-6) / max(1 - probability, 1e-6)))


def _box(centre: NDArray[np.float64], size: NDArray[np.float64], turn: float, squash: float) -> Box:
    """Box along the film's sides around one that is turned: exact for squares and circles, between for what is oblong."""
    cosine, sine = np.cos(turn), np.sin(turn)
    width, height = np.hypot(size[0] * cosine, size[1] * sine), np.hypot(size[0] * sine, size[1] * cosine)
    width /= squash
    x, y = centre
    return (float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2))
