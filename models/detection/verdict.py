"""Say whether a film can be read, and why not; what was noticed on a film that can be read stands beside it.

The codes are stable; the texts name what was seen and the limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from models.detection.hidden import COINCIDES, COVERED, GRAIN, UNDER_CAST, UNSURE
from models.detection.second import Other
from models.image import Image
from models.reading import ImageFacts, Reason, Verdict
from models.regions import RADIUS, REGIONS

HAND_PROBABILITY: Final = 0.5
# For a second hand of which too little is on the film to be found as a whole. Chosen on 24 phantoms of two hands (19 are above it,
# 14 above 0.5) and 500 films of one (one is above it, 0.212): a remark alone hangs on it, and a second hand unnoticed is the
# dearer error.
TWO_HANDS_PROBABILITY: Final = 0.2
MINIMUM_REGIONS: Final = 8  # fewer than this is no hand that could be told from something else
MINIMUM_FITTING: Final = 0.6  # share of points that lie where a hand has them
MAXIMUM_MISFIT: Final = 3.0
MAXIMUM_MISSING: Final = 3
TURNED_DEGREES: Final = 30.0
# Why a region counts as missing, in the words of the remark; what no cause is known of is not on the film.
_MISSING: Final = {
    UNDER_CAST: "under a cast or splint",
    None: "not seen on the film",
    COVERED: "covered or burnt out, one grey level there",
    GRAIN: "covered, nothing but grain there",
    COINCIDES: "not told apart from a neighbour",
    UNSURE: "not made out with certainty",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the detector saw."""

    hand_probability: float
    two_hands_probability: float
    found: Sequence[str]  # regions that lie on the film
    fitting: float
    misfit: float
    out_of_order: Sequence[str]
    hidden: Mapping[str, str] = field(default_factory=dict)  # regions whose place is known but shows nothing -> why
    other: Other | None = None  # a second hand that was found as a whole


def judge(image: Image, facts: ImageFacts, evidence: Evidence) -> Verdict:
    """Turn evidence into a verdict."""
    no_hand = _no_hand(image, evidence)
    if no_hand is not None:
        return Verdict(False, (no_hand,))
    reasons: list[Reason] = []
    missing = [name for name in REGIONS if name not in evidence.found]
    refused = len(missing) > MAXIMUM_MISSING or RADIUS in missing
    if UNDER_CAST in evidence.hidden.values():
        reasons.append(Reason("cast", "a cast or splint lies over the hand; the bones under it were not judged"))
    if missing:
        by_cause = {cause: [name for name in missing if evidence.hidden.get(name) == cause] for cause in _MISSING}
        parts = [f"{_MISSING[cause]}: {', '.join(names)}" for cause, names in by_cause.items() if names]
        parts += [f"at most {MAXIMUM_MISSING} may be missing, the radius not"] if refused else []
        reasons.append(Reason("missing-regions", "; ".join(parts)))
    if evidence.other is not None or evidence.two_hands_probability >= TWO_HANDS_PROBABILITY:
        reasons.append(Reason("two-hands", _two_hands(facts, evidence.other)))
    if facts.polarity == "bone dark":
        reasons.append(
            Reason(
                "polarity",
                f"bone is dark where {facts.polarity_declared} promises it bright; the film was read inverted",
            )
        )
    if facts.laterality_declared and facts.laterality and facts.laterality != facts.laterality_declared:
        reasons.append(
            Reason(
                "laterality",
                f"the thumb lies as on a {_side(facts.laterality)} hand, the header says {_side(facts.laterality_declared)}",
            )
        )
    if abs(facts.rotation_degrees) > TURNED_DEGREES:
        reasons.append(
            Reason(
                "rotated",
                f"the hand is turned by {facts.rotation_degrees:.0f} degrees (limit of the remark: {TURNED_DEGREES:.0f})",
            )
        )
    if evidence.out_of_order:
        reasons.append(
            Reason("order", f"the place of {', '.join(evidence.out_of_order)} contradicts the anatomy of a hand")
        )
    return Verdict(not refused, tuple(reasons))


def _no_hand(image: Image, evidence: Evidence) -> Reason | None:
    if float(image.pixels.max() - image.pixels.min()) == 0:
        return Reason("not-a-hand", "the film is blank: every pixel has the same grey level")
    if evidence.hand_probability < HAND_PROBABILITY:
        return Reason(
            "not-a-hand",
            f"no hand was seen (probability {evidence.hand_probability:.2f}; the limit is {HAND_PROBABILITY})",
        )
    if len(evidence.found) < MINIMUM_REGIONS:
        return Reason(
            "not-a-hand",
            f"{len(evidence.found)} of 22 regions of a hand were seen; at least {MINIMUM_REGIONS} are needed",
        )
    if evidence.fitting < MINIMUM_FITTING or evidence.misfit > MAXIMUM_MISFIT:
        return Reason(
            "not-a-hand",
            f"what was seen does not lie as in a hand ({100 * evidence.fitting:.0f} % of the points fit; "
            f"the limit is {100 * MINIMUM_FITTING:.0f} %)",
        )
    return None


def _two_hands(facts: ImageFacts, other: Other | None) -> str:
    """Say which hand was read and where the other one lies."""
    read = facts.laterality or "L"
    parts = ["more than one hand on the film"]
    if other is not None and other.laterality == read:
        parts.append(f"both lie as {_side(read)} hands, one of them was read")
    elif read == "L":
        parts.append("the left one was read")
    else:
        parts.append("no whole left one was made out, the right one was read")
    if other is not None:
        parts.append(f"the other one lies {other.lies} it")
    return "; ".join(parts)


def _side(laterality: str) -> str:
    return {"L": "left", "R": "right"}[laterality]
