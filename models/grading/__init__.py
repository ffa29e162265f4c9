"""Give each of the 13 RUS bones its RUS-CHN stage (P5), absent centre included; TW3 letters follow by the mapping.

In the order in which a film passes through them:

1. `crops` cuts the 13 regions out of the film, turned so that every bone points up, equalised and with its edges enhanced.
2. `network` maps the crops to stage probabilities; `predict` runs it and calibrates them.

`models.standards` turns the probabilities into scores and bone ages: classic, Top2 or TopN.
`phantoms` renders training crops into a cache, `losses` holds the ordinal losses, `ages` the training signal that a film's
total score must give its bone age, `harmony` the prior that the bones of a hand agree; `train`, `tune` and `evaluate` are the commands,
`contradiction` finds from when on the other bones contradict a single one.
"""
