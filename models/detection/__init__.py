"""Find the 22 regions of a hand on a film, and say why a film cannot be read.

1. `conventions` names the points the network knows and brings each annotation set to them.
2. `data` draws training views, `network` is the network, `train` trains it, `evaluate` measures it.
3. `anatomy` knows the shape of a hand, `verdict` says what is wrong with a film.
4. `predict` looks twice, first at the whole film, then at the hand turned upright, and returns a `Detection`.
"""
