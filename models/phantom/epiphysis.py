"""Give one epiphysis its shape from its maturity.

Keyframes hold the shape at the moment a stage is reached; between them the shape is interpolated, so that the stage is
the discretisation of a continuous form. The definitional anchors are those of the RUS-CHN stages: a width of at least
half the metaphysis at stage 3, level with the shaft, wider than the shaft with bent tips (capping), loss of the dark band
from its centre (fusion). The other numbers are design values for a phantom, not measurements.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.phantom import maturity

# One column per parameter of `Shape`; the first column is the level at which the row holds.
#   lateral, medial: half width over the half width of the metaphysis, on the thumb side and on the other
#   height: over the adult height of this epiphysis         gap: growth plate in mm
#   corner: exponent of the outline, 2 an ellipse, above 4 squared
#   caps: how far the tips bend over the metaphysis, lateral and medial, as a fraction of the adult height
#   joint: how far the joint surface has taken its adult relief       edges: how clearly its two borders are seen apart
#   fused: fraction of the band bridged, from the centre            line: residual sclerotic line
_PHALANX: Final = (
    (1, 0.04, 0.04, 0.14, 1.8, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (2, 0.2, 0.2, 0.38, 1.37, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (3, 0.51, 0.51, 0.58, 0.75, 2.3, 0.0, 0.0, 0.1, 0.35, 0.0, 0.0),
    (4, 0.76, 0.74, 0.72, 0.57, 2.7, 0.0, 0.0, 0.5, 0.7, 0.0, 0.0),
    (5, 0.99, 0.82, 0.8, 0.5, 3.0, 0.0, 0.0, 0.7, 0.85, 0.0, 0.0),
    (6, 1.0, 1.0, 0.87, 0.47, 3.4, 0.0, 0.0, 0.85, 0.8, 0.0, 0.0),
    (7, 1.05, 1.03, 0.94, 0.42, 5.0, 0.0, 0.0, 1.0, 0.9, 0.0, 0.0),
    (8, 1.08, 1.04, 0.98, 0.36, 5.0, 0.3, 0.04, 1.0, 1.0, 0.0, 0.0),
    (9, 1.09, 1.09, 1.0, 0.29, 5.0, 0.36, 0.34, 1.0, 1.0, 0.0, 0.0),
    (10, 1.07, 1.07, 1.0, 0.23, 5.0, 0.34, 0.34, 1.0, 1.0, 0.15, 0.6),
    (11, 1.05, 1.05, 1.0, 0.17, 5.0, 0.3, 0.3, 1.0, 0.9, 0.55, 0.8),
    (12, 1.03, 1.03, 1.0, 0.1, 5.0, 0.22, 0.22, 1.0, 0.7, 1.0, 0.9),
    (13, 1.02, 1.02, 1.0, 0.0, 5.0, 0.15, 0.15, 1.0, 0.5, 1.0, 0.15),
)
# Distal phalanges and the first metacarpal reach full width at level 4; there is no 4(2).
_FULL_AT_FOUR: Final = (
    *_PHALANX[:3],
    (4, 0.98, 0.98, 0.76, 0.55, 2.8, 0.0, 0.0, 0.5, 0.7, 0.0, 0.0),
    (5, 1.04, 1.03, 0.88, 0.47, 3.4, 0.0, 0.0, 0.85, 0.9, 0.0, 0.0),
    *((row[0] - 1, *row[1:]) for row in _PHALANX[6:]),
)
_METACARPAL: Final = (
    (1, 0.05, 0.05, 0.1, 1.95, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (2, 0.22, 0.22, 0.32, 1.43, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (3, 0.51, 0.51, 0.58, 0.8, 2.1, 0.0, 0.0, 0.1, 0.35, 0.0, 0.0),
    (4, 0.76, 0.74, 0.76, 0.6, 2.7, 0.0, 0.0, 0.5, 0.7, 0.0, 0.0),
    (5, 0.99, 0.84, 0.84, 0.5, 3.0, 0.0, 0.0, 0.7, 0.85, 0.0, 0.0),
    (6, 1.0, 0.94, 0.92, 0.47, 3.2, 0.0, 0.0, 0.85, 0.9, 0.0, 0.0),
    (7, 1.03, 1.02, 0.98, 0.4, 3.6, 0.03, 0.03, 1.0, 1.0, 0.0, 0.0),
    (8, 1.04, 1.04, 1.0, 0.24, 3.8, 0.06, 0.06, 1.0, 1.0, 0.15, 0.6),
    (9, 1.04, 1.04, 1.0, 0.17, 3.8, 0.06, 0.06, 1.0, 0.9, 0.52, 0.8),
    (10, 1.03, 1.03, 1.0, 0.1, 3.8, 0.05, 0.05, 1.0, 0.7, 1.0, 0.9),
    (11, 1.02, 1.02, 1.0, 0.0, 3.8, 0.03, 0.03, 1.0, 0.5, 1.0, 0.15),
)
_RADIUS: Final = (
    (1, 0.04, 0.04, 0.1, 2.25, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (2, 0.2, 0.18, 0.34, 1.69, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (3, 0.6, 0.42, 0.56, 0.8, 2.2, 0.0, 0.0, 0.2, 0.35, 0.0, 0.0),
    (4, 0.78, 0.66, 0.72, 0.65, 2.5, 0.0, 0.0, 0.5, 0.7, 0.0, 0.0),
    (5, 0.9, 0.84, 0.8, 0.55, 2.8, 0.0, 0.0, 0.7, 0.9, 0.0, 0.0),
    (6, 0.95, 1.0, 0.86, 0.5, 3.2, 0.0, 0.0, 0.8, 1.0, 0.0, 0.0),
    (7, 1.02, 1.02, 0.94, 0.47, 3.8, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0),
    (8, 1.04, 1.07, 0.98, 0.4, 4.2, 0.02, 0.24, 1.0, 1.0, 0.0, 0.0),
    (9, 1.08, 1.08, 1.0, 0.33, 4.4, 0.22, 0.26, 1.0, 1.0, 0.0, 0.0),
    (10, 1.06, 1.06, 1.0, 0.25, 4.4, 0.22, 0.24, 1.0, 1.0, 0.06, 0.5),
    (11, 1.05, 1.05, 1.0, 0.23, 4.4, 0.2, 0.22, 1.0, 1.0, 0.25, 0.6),
    (12, 1.04, 1.04, 1.0, 0.2, 4.4, 0.18, 0.2, 1.0, 0.9, 0.5, 0.7),
    (13, 1.03, 1.03, 1.0, 0.17, 4.4, 0.16, 0.18, 1.0, 0.8, 0.75, 0.8),
    (14, 1.03, 1.03, 1.0, 0.1, 4.4, 0.14, 0.15, 1.0, 0.7, 1.0, 0.9),
    (15, 1.02, 1.02, 1.0, 0.0, 4.4, 0.1, 0.1, 1.0, 0.5, 1.0, 0.2),
)
_ULNA: Final = (
    (1, 0.05, 0.05, 0.12, 2.1, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (2, 0.22, 0.22, 0.3, 1.56, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (3, 0.51, 0.54, 0.46, 0.9, 2.2, 0.0, 0.0, 0.12, 0.35, 0.0, 0.0),
    (4, 0.7, 0.76, 0.58, 0.7, 2.6, 0.0, 0.0, 0.45, 0.7, 0.0, 0.0),
    (5, 0.84, 0.88, 0.72, 0.6, 3.0, 0.0, 0.0, 0.7, 0.85, 0.0, 0.0),
    (6, 0.92, 1.0, 0.82, 0.5, 3.3, 0.0, 0.0, 0.85, 0.8, 0.0, 0.0),
    (7, 1.0, 1.0, 0.95, 0.35, 3.6, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0),
    (8, 1.03, 1.03, 1.0, 0.25, 4.0, 0.05, 0.05, 1.0, 1.0, 0.06, 0.5),
    (9, 1.03, 1.03, 1.0, 0.23, 4.0, 0.05, 0.05, 1.0, 1.0, 0.25, 0.6),
    (10, 1.02, 1.02, 1.0, 0.2, 4.0, 0.05, 0.05, 1.0, 0.9, 0.5, 0.7),
    (11, 1.02, 1.02, 1.0, 0.17, 4.0, 0.04, 0.04, 1.0, 0.8, 0.75, 0.8),
    (12, 1.01, 1.01, 1.0, 0.1, 4.0, 0.03, 0.03, 1.0, 0.7, 1.0, 0.9),
    (13, 1.0, 1.0, 1.0, 0.0, 4.0, 0.02, 0.02, 1.0, 0.5, 1.0, 0.2),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of one epiphysis; lengths are relative to the metaphysis or the adult height unless the name says mm."""

    lateral: float
    medial: float
    height: float
    gap_mm: float
    corner: float
    cap_lateral: float
    cap_medial: float
    joint: float
    edges: float
    fused: float
    line: float


def _frames(bone: str) -> NDArray[np.float64]:
    if bone == "radius":
        rows: tuple[tuple[float, ...], ...] = _RADIUS
    elif bone == "ulna":
        rows = _ULNA
    elif bone == "mc1" or bone.startswith("dp"):
        rows = _FULL_AT_FOUR
    elif bone.startswith("mc"):
        rows = _METACARPAL
    else:
        rows = _PHALANX
    return np.array(rows, dtype=np.float64)


_KEYFRAMES: Final = {bone: _frames(bone) for bone in maturity.BONES}


def shape(bone: str, value: float) -> Shape | None:
    """Return the shape at maturity `value`, or None below 1, where no centre is visible."""
    if value < 1.0:
        return None
    frames = _KEYFRAMES[bone]
    column = np.clip(value, frames[0, 0], frames[-1, 0])
    index = min(int(np.searchsorted(frames[:, 0], column, side="right")) - 1, len(frames) - 2)
    share = (column - frames[index, 0]) / (frames[index + 1, 0] - frames[index, 0])
    return Shape(*(float(x) for x in (1 - share) * frames[index, 1:] + share * frames[index + 1, 1:]))
