"""Find the 22 regions of a hand on a film, and say why a film cannot be read.

1. `conventions` names the points the network knows and brings each annotation set to them.
2. `data` draws training views, `network` is the network, `train` trains it, `evaluate` measures it.
3. `anatomy` knows the shape of a hand, `verdict` says what is wrong with a film.
4. `closer` moves and sizes each box by a look at its region alone; `learning_closer` trains it, `borrowed` sets it to phantoms' own boxes.
5. `predict` looks three times, at the whole film, at the hand turned upright, at each region, and returns a `Detection`.
   `second` looks for another hand, `hidden` for bones whose place shows nothing, `cast` for what lies under a cast;
   `casting` lays casts over films and `learning_cast` trains the look for them.
6. `annotated` reads a hospital's own boxes, `held_back` measures a detector on those that it did not learn from.
7. `readers_look` moves each set's points to where that set's readers put them, for measurements and not for the service;
   `learning_readers_look` fits it.
8. `stress` disturbs films step by step and says what is still found.
"""
