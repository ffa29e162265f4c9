"""Estimate the bone age from the film as a whole.

In the order in which a film passes through them:

1. `appearance` brings a film of any size to the 100 x 100 thumbnail the network was trained on.
2. `data` reads the training thumbnails, splits them by patient and augments batches.
3. `network` is the residual network with a sex input that predicts a distribution over months.
4. `train` fits it, `evaluate` measures it and calibrates its intervals, `predict` serves it.

Two methods of other papers stand beside it: `regions`, `boost` and `boosted` are the region features and boosted trees of P2;
`texture`, `zh05` and `ablation` the texture overlay and the networks of P4.
"""
