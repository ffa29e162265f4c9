"""How far two readers of one film are apart, and whether the second reader sides with the detector where it misses the first."""

import itertools
from collections import defaultdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import transforms
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.conventions import CHANNEL, JOINTS, REGION_OF_JOINT, Annotated
from models.metrics import bootstrap

KNUCKLES: Final = frozenset(f"{bone}{finger}" for bone in ("mcp", "mc") for finger in (2, 3, 4, 5))
FEWEST_KNUCKLES: Final = 2  # others, from which the height of the row is taken
Array = NDArray[np.float64]
Films = dict[int, dict[str, Annotated]]


def laid(template: Template, record: Annotated) -> tuple[Array, transforms.Similarity]:
    """Return a film's points in a plane without squash and how the template's hand lies there."""
    true: Array = record.points * np.array([record.aspect, 1.0])
    stated = ~np.isnan(true[:, 0])
    return true, transforms.Similarity.fit(template.points[stated], true[stated])


def offset(template: Template, fit: transforms.Similarity, vector: Array) -> Array:
    """Turn a vector of the film's plane upright, in per cent of the hand's length."""
    turned: Array = np.linalg.inv(fit.matrix[:, :2]) @ vector / template.hand_length * 100
    return turned


def apart(template: Template, found: Films) -> dict[tuple[str, str], dict[str, dict[int, Array]]]:
    """Return by pair of sets, joint and film how far the first reader's point lies from the second's: upright, per cent of the hand."""
    vectors: dict[tuple[str, str], dict[str, dict[int, Array]]] = defaultdict(lambda: defaultdict(dict))
    for film, records in found.items():
        for one, other in itertools.combinations(sorted(records), 2):
            (first, _), (second, fit) = (laid(template, records[name]) for name in (one, other))
            for joint in JOINTS:
                a, b = (_channel(points, joint) for points in (first, second))
                if a is not None and b is not None:
                    vectors[one, other][joint][film] = offset(template, fit, first[CHANNEL[a]] - second[CHANNEL[b]])
    return vectors


def between_readers(template: Template, found: Films) -> dict[str, Any]:
    """Hold two sets on the same films against each other, after the constant distance of their conventions is taken off."""
    result: dict[str, Any] = {}
    for pair, joints in apart(template, found).items():
        errors: dict[int, list[float]] = defaultdict(list)
        for films in joints.values():
            middle = np.median(list(films.values()), axis=0)
            for film, vector in films.items():
                errors[film].append(float(np.hypot(*(vector - middle))))
        result[" and ".join(pair)] = {
            "within 2.5 percent of each other": share(list(errors.values())),
            "each within it of the place between them, if both err alike": share(
                [[e / np.sqrt(2) for e in row] for row in errors.values()]
            ),
        }
    return result


def judged_by_the_second(template: Template, found: Films, errors: dict[str, dict[int, dict[str, Array]]]) -> Any:
    """Ask of each miss that has a second reader on which side he stands.

    Parameters
    ----------
    errors
        Set -> film -> channel -> from the reader's point to the detector's: upright, per cent of the hand's length.
    """
    result: dict[str, Any] = {}
    vectors = apart(template, found)
    for (one, other), joints in vectors.items():
        for origin, second, sign in ((one, other, 1.0), (other, one, -1.0)):
            rows: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
            for joint, films in joints.items():
                middle = np.median(list(films.values()), axis=0)
                for film in films.keys() & errors.get(origin, {}).keys():
                    name = _channel(laid(template, found[film][origin])[0], joint)
                    away = errors[origin][film].get(name or "")
                    if away is None or not np.isfinite(away[0]):
                        continue
                    # From the first reader's point to the second's, the constant distance of the conventions taken off.
                    other_point = sign * (middle - films[film])
                    missed = float(np.hypot(*away)) > LIMIT_PERCENT
                    rows[film].append((missed, missed and float(np.hypot(*(away - other_point))) <= LIMIT_PERCENT))
            flat = [case for row in rows.values() for case in row]
            if flat:
                result[f"{origin}, second reader {second}"] = {
                    "films": len(rows),
                    "joints": len(flat),
                    "missed": sum(missed for missed, _ in flat),
                    "missed, and the second reader within 2.5 percent of the detector": sum(near for _, near in flat),
                    "within_2.5_percent of one of the two": share(
                        [[LIMIT_PERCENT * (1 + (missed and not near)) for missed, near in row] for row in rows.values()]
                    ),
                }
    return result


def row_told(errors: dict[str, Array]) -> dict[str, float]:
    """Return how far a film's points are missed if its reader's height of the knuckles is taken from the other knuckles.

    A reader who sets the whole row of MCP joints 2 to 5 at the gap on one film and at the metacarpals' heads on the next cannot be
    followed from the pixels. Each of the four is therefore moved along the hand by the mean miss of the other three (two at
    least); every other point stays. What is still missed is not that habit.

    Parameters
    ----------
    errors
        Channel -> from the reader's point to the detector's on one film: upright, per cent of the hand's length.
    """
    told = {}
    for name, away in errors.items():
        others = [
            errors[other][1]
            for other in errors
            if other != name and _is_knuckle(other) and _is_knuckle(name) and np.isfinite(errors[other][1])
        ]
        told[name] = float(np.hypot(away[0], away[1] - np.mean(others) if len(others) >= FEWEST_KNUCKLES else away[1]))
    return told


def height_of_knuckles(errors: dict[str, Array]) -> float | None:
    """Return by how much a film's row of MCP joints 2 to 5 is missed along the hand, on average; None where none was seen."""
    heights = [away[1] for name, away in errors.items() if _is_knuckle(name) and np.isfinite(away[1])]
    return round(float(np.mean(heights)), 2) if heights else None


def _is_knuckle(channel: str) -> bool:
    return channel.split(" ")[-1] in KNUCKLES


def _channel(points: Array, joint: str) -> str | None:
    """Return the name of the channel by which a film states a joint."""
    for name in (joint, f"tight {joint}", f"spot {joint}", f"loose {REGION_OF_JOINT.get(joint)}"):
        if name in CHANNEL and not np.isnan(points[CHANNEL[name], 0]):
            return name
    return None


def share(rows: list[list[float]]) -> dict[str, Any]:
    """Return the share of errors within the limit and its interval over films."""
    counts = np.array([[sum(e <= LIMIT_PERCENT for e in row), len(row)] for row in rows], np.float64)
    return bootstrap.share(counts).to_dict()
