"""Draw hand radiographs whose truth is known: films to train and to test on.

In the order in which a film comes about:

1. `maturity` draws how far each of 21 ossification centres has come, so that the whole agrees with a bone age.
2. `epiphysis` gives each centre its shape from that; `skeleton` sizes the bones and places them, `carpals` the wrist.
3. `canvas` accumulates bone, which `bones` and `carpals` rasterise; `flesh` adds soft tissue.
4. `exposure` turns both into a film; `furniture` adds markers, text, collimation and frames.
5. `film` knows all of it: `draw(seed) -> Phantom`. `others` draws what is not a hand, `two_hands` what is two.

The README of this folder tells what still differs from real films.
"""

from models.phantom.film import Phantom, draw
from models.phantom.others import draw_other
from models.phantom.two_hands import two_hands

__all__ = ["Phantom", "draw", "draw_other", "two_hands"]
