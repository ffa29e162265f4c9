"""Name the 22 regions of the hand, one vocabulary for every method.

A region is the neighbourhood of one ossification centre (the epiphysis, its growth plate and the adjoining metaphysis),
or the carpus as a whole. The region is present even where the centre has not appeared yet.
"""

from typing import Final, Literal

Laterality = Literal["L", "R"]
Sex = Literal["F", "M"]

RADIUS: Final = "radius"
ULNA: Final = "ulna"
CARPUS: Final = "carpus"
METACARPALS: Final = ("mc1", "mc2", "mc3", "mc4", "mc5")
PROXIMAL_PHALANGES: Final = ("pp1", "pp2", "pp3", "pp4", "pp5")
MIDDLE_PHALANGES: Final = ("mp2", "mp3", "mp4", "mp5")
DISTAL_PHALANGES: Final = ("dp1", "dp2", "dp3", "dp4", "dp5")

# The order is the contract: networks, annotations and reports index regions by their place in this tuple.
REGIONS: Final = (
    RADIUS,
    ULNA,
    *METACARPALS,
    *PROXIMAL_PHALANGES,
    *MIDDLE_PHALANGES,
    *DISTAL_PHALANGES,
    CARPUS,
)

# TW3, TW3-C RUS and RUS-CHN read the same 13 bones (Tanner 2001; Zhang 2006): radius, ulna and the short bones of rays 1, 3, 5.
RUS: Final = ("radius", "ulna", "mc1", "mc3", "mc5", "pp1", "pp3", "pp5", "mp3", "mp5", "dp1", "dp3", "dp5")
# P2 (region features + XGBoost): 17 regions, pooled to six types.
REGION_FEATURES: Final = (
    CARPUS,
    RADIUS,
    ULNA,
    *METACARPALS[1:],
    *PROXIMAL_PHALANGES,
    *DISTAL_PHALANGES,
)
# The distal radius and ulna crop of P1 is segmented into these two bones.
SEGMENTED: Final = (RADIUS, ULNA)
# Carpal scoring reads seven bones; the pisiform is not scored (Tanner 2001).
CARPALS: Final = ("capitate", "hamate", "triquetral", "lunate", "scaphoid", "trapezium", "trapezoid")
